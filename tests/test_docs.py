"""README, CONTRIBUTING and docs/ are true: their commands run, and they name every error.

A command in a block marked `sh` is run here with the small network, unless a comment `# needs: ...`
stands behind it or above it in the block. Then its options are parsed and nothing more. Links are
checked by `make docs`.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from pathlib import Path

import pytest
import torch

from seresnext101_triton.__main__ import COMMANDS
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.serving import ImageInput, Serving
from seresnext101_triton.export.weights.seeded import seeded_network
from seresnext101_triton.server import TRITON_RELEASE
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.releases import RELEASES
from tests.conftest import FREE_PORTS, QUIET, TINY, checkout_copy, tiny_request
from tests.deploy import commands as deploy

PROJECT = Path(__file__).parents[1]
PAGES = [
    *(PROJECT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")),
    *sorted(page for page in (PROJECT / "docs").glob("*.md") if not page.is_symlink()),
]
PACKAGES = ("client", "server", "export", "perf")
LABELS = ("cat", "rocket", "coffee")

# What a command is given here and not in the pages: the small network, and ports that are free.
SMALL = "--architecture se-resnext-tiny --crop 64 --resize 72"
PORTS = "--grpc-port 0 --http-port 0 --metrics-port 0"


# The HTTP address of the server at each gRPC address. The pages name Triton's own port.
HTTP: dict[str, str] = {}


@dataclass(frozen=True)
class Command:
    """One command of a page.

    Attributes:
        text: The command without its comment. It may have several lines.
        needs: What it needs that not every machine has. Empty if it is run here.
    """

    text: str
    needs: str

    @property
    def parts(self) -> list[list[str]]:
        """The words of each simple command in it."""
        lexer = shlex.shlex(self.text.replace("\\\n", " "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        groups = groupby(lexer, key=lambda token: token in ("&&", "||", "|", ";"))
        return [list(tokens) for separates, tokens in groups if not separates]


def blocks(page: Path, language: str) -> list[str]:
    """The content of the fenced blocks of one language."""
    pattern = rf"^```{language}\n(.*?)^```"
    return re.findall(pattern, page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[Command]:
    """The commands of a page, in their order."""
    found = []
    for block in blocks(page, "sh"):
        text, needed = "", ""
        for line in block.splitlines():
            if line.startswith("# needs: "):  # it is about the rest of the block
                needed = line.removeprefix("# needs: ")
                continue
            text += line + "\n"
            if not line.endswith("\\") and _is_complete(text):
                command, _, comment = text.strip().partition("  # ")
                needs = comment.removeprefix("needs: ") if comment.startswith("needs: ") else needed
                found.append(Command(command, needs))
                text = ""
        assert not text, f"{page.name}: a quotation has no end: {text}"
    return found


def _is_complete(text: str) -> bool:
    try:
        return bool(shlex.split(text, comments=True))
    except ValueError:  # a quotation is open
        return False


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with what the pages take for granted.

    It has a checkpoint with its labels, a folder of images whose classes are known, and models.
    """
    folder = checkout_copy(tmp_path_factory.mktemp("checkout"))
    network = seeded_network(TINY.__class__(**{**vars(TINY), "classes": len(LABELS)}), 0)
    torch.save({"state_dict": network.state_dict()}, folder / "finetuned.pth")
    (folder / "classes.txt").write_text("".join(f"{label}\n" for label in LABELS))
    for index, photograph in enumerate(sample_photographs()[: len(LABELS)]):
        (folder / "val" / str(index)).mkdir(parents=True)
        (folder / "val" / str(index) / photograph.name).symlink_to(photograph)
    models = folder / "model_repository"
    served = {"serving": Serving(), "formats": ("torchscript", "onnx")}
    files = {"formats": ("onnx",), "image_input": ImageInput()}
    export(tiny_request(models, name="seresnext101", **served | files), QUIET)
    weights = {"weights": str(folder / "finetuned.pth"), "labels": str(folder / "classes.txt")}
    export(tiny_request(models, name="pets", **served, **weights), QUIET)
    return folder


@pytest.fixture(scope="module")
def url(checkout: Path) -> Iterator[str]:
    """The address of a server on the models of the copy."""
    with Server(checkout / "model_repository", ports=FREE_PORTS) as running:
        HTTP[running.url] = f"{running.launch.http_host}:{running.ports.http}"
        yield running.url


def run(command: str, checkout: Path, url: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in the copy, against the server."""
    command = command.replace("localhost:8000", HTTP[url])
    path = f"{checkout}/.venv/bin:{os.environ['PATH']}"
    environment = os.environ | {"TRITON_URL": url, "PATH": path}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def adapted(command: str, page: Path) -> str:
    """A command as it is run here: with the small network, on free ports, and with an end.

    Only README's server has all models: each takes a second to load.
    """
    command = command.replace("python -m export --", f"python -m export {SMALL} --")
    if command.split()[:3] == ["python", "-m", "server"]:
        is_for_all = page.stem == "README" or "--model " in command
        options = PORTS if is_for_all else f"{PORTS} --model seresnext101_onnx"
        command = command.replace("python -m server", f"python -m server {options}", 1)
        command += "" if " -- " in command else " -- true"
    return command


def with_commands(*, needy: bool) -> list[Path]:
    return [page for page in PAGES if any(bool(each.needs) == needy for each in commands(page))]


@pytest.mark.parametrize("page", with_commands(needy=False), ids=lambda page: page.stem)
def test_the_commands_of_a_page_work(page, checkout, url):
    for command in commands(page):
        if not command.needs:
            result = run(adapted(command.text, page), checkout, url)
            assert result.returncode == 0, f"{command.text}\n{result.stdout}\n{result.stderr}"


@pytest.mark.parametrize("page", with_commands(needy=True), ids=lambda page: page.stem)
def test_the_commands_that_are_not_run_exist(page, monkeypatch):
    for command in commands(page):
        for words in command.parts if command.needs else ():
            check(words, monkeypatch)


def check(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """See that a command's target, file or options exist."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE)
        assert words[1] in targets
    elif words[:3] == ["python", "-m", "pytest"]:
        assert (PROJECT / words[3]).exists()
    elif words[0] == "seresnext101":
        assert words[1] in COMMANDS
    elif words[0] in deploy.PROGRAMS:
        deploy.check(words)
    elif words[:2] == ["python", "-m"]:
        assert parses(words[2], words[3:], monkeypatch), words
    else:
        assert words[0] in ("git", "cd", "pip", "jupyter"), f"nothing checks the command {words}"


class Parsed(BaseException):
    """The options were read. No handler of errors catches it."""


def parses(module: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a command line of this project takes these arguments. Nothing is run."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse(self, args=None, namespace=None):
        raise Parsed(parse_args(self, args, namespace))

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        try:
            import_module(f"seresnext101_triton.{module}.cli").main(list(arguments))
        except Parsed:
            return True
        except SystemExit:  # argparse has printed why
            return False
    raise AssertionError(f"python -m {module} does not read its options with argparse")


def test_the_python_of_the_client_page_works(checkout, url):
    """Three predictions of one image, one of another, one error, and two predictions."""
    output = output_of_python(PROJECT / "docs" / "client.md", checkout, url)
    assert output.count("Prediction(index=") == 3 + 1 + 2
    assert "README.md is not an image that Pillow can read" in output


def test_the_python_of_the_page_on_weights_works(checkout, url):
    output = output_of_python(PROJECT / "docs" / "own-weights.md", checkout, url)
    assert re.match(r"pets-from-python_onnx 1 .*/model\.onnx\n", output)


def output_of_python(page: Path, checkout: Path, url: str) -> str:
    """What the examples of a page print. The full network is replaced by the small one."""
    small = (
        "from seresnext101_triton.export.network import ARCHITECTURES\n"
        "ARCHITECTURES['se-resnext101-32x4d'] = ARCHITECTURES['se-resnext-tiny']\n"
    )
    output = ""
    for example in blocks(page, "python"):
        code = small + example if "triton.export" in example else example
        result = run(f"python -c {shlex.quote(code)}", checkout, url)
        assert result.returncode == 0, result.stderr
        output += result.stdout
    return output


def test_every_python_example_is_run():
    assert [page.stem for page in PAGES if blocks(page, "python")] == ["client", "own-weights"]


def test_no_command_hides_in_a_block_of_another_kind():
    for page in PAGES:
        languages = set(re.findall(r"^```(\S+)", page.read_text(), flags=re.MULTILINE))
        assert languages <= {"sh", "python", "text"}, page
        plain = "".join(blocks(page, "text"))
        assert not re.search(r"^(python -m|make) [a-z]", plain, flags=re.MULTILINE), page


def error_classes() -> dict[str, ast.ClassDef]:
    """The classes of errors that a person sees, by name, found without importing anything."""
    classes = [
        node
        for package in PACKAGES
        for path in sorted((PROJECT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    found: dict[str, ast.ClassDef] = {}
    while True:
        known = {"ToolkitError", "ClientError", "ServerError", "ExportError", "PerfError", *found}
        more = {
            node.name: node
            for node in classes
            if node.name not in found
            and (
                node.name in known
                or any(isinstance(base, ast.Name) and base.id in known for base in node.bases)
            )
        }
        if not more:
            return found
        found |= more


def entries() -> dict[str, str]:
    """The sections of the page on troubleshooting, by heading."""
    text = (PROJECT / "docs" / "troubleshooting.md").read_text()
    return dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", text, flags=re.MULTILINE | re.DOTALL))


def test_every_error_has_an_entry():
    assert set(error_classes()) == set(entries())


def exit_code(name: str, classes: dict[str, ast.ClassDef]) -> int:
    """The exit code of an error: its own, or the one of its base class."""
    for statement in classes[name].body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "exit_code":
            return int(ast.literal_eval(statement.value))
    bases = [base.id for base in classes[name].bases if isinstance(base, ast.Name)]
    return next((exit_code(base, classes) for base in bases if base in classes), 1)


def test_every_entry_has_the_exit_code_of_its_error():
    classes = error_classes()
    for name, text in entries().items():
        sentence = text.strip().partition(". ")[0]
        if name in classes and sentence.startswith("Exit code"):
            assert str(exit_code(name, classes)) in re.findall(r"\d+", sentence), name


def test_every_message_of_an_entry_is_in_the_code():
    """`…` stands for what differs; the other parts must be in one text of the code each."""
    texts = {
        node.value
        for package in PACKAGES
        for path in (PROJECT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    everything = "\0".join(texts)
    lost = [
        f"{name}: {message}"
        for name, text in entries().items()
        for row in re.findall(r"^\| (`.*?) \| [^|]*\|$", text, flags=re.MULTILINE)
        for message in re.findall("`(.*?)`", row)
        for part in message.split("…")
        if part.strip() not in everything
    ]
    assert not lost, "docs/troubleshooting.md quotes what no code says:\n" + "\n".join(lost)


def test_the_readme_is_short():
    text = (PROJECT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    for row in re.findall(r"^\|(.*)\|$", text, flags=re.MULTILINE):
        cells = row.split("|")
        assert len(cells) <= 5, row
        assert all(len(cell.split()) <= 15 for cell in cells), row


def test_the_table_of_releases_is_the_codes():
    text = (PROJECT / "docs" / "tensorrt.md").read_text()
    rows = re.findall(r"^\| (\d\d\.\d\d) \| (.*) \|$", text, flags=re.MULTILINE)
    assert TRITON_RELEASE in dict(rows)
    for name, versions in rows:
        known = RELEASES[name]
        expected = [known.tensorrt, known.onnxruntime, known.openvino, known.cuda]
        assert versions.split(" | ") == expected


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_files_that_pages_name_exist():
    """Names in capitals stand for what a reader chooses."""
    for page in PAGES:
        for name in re.findall(
            r"`((?:client|server|export|perf|tests|deploy)/[a-z0-9_./]*)`", page.read_text()
        ):
            assert (PROJECT / name).exists(), f"{page.name}: {name}"


def test_every_page_is_in_the_sites_navigation():
    navigation = (PROJECT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    for page in (PROJECT / "docs").glob("*.md"):
        assert f": {page.name}\n" in navigation
