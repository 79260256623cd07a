"""The project as a wheel in a fresh environment, used from a folder with the user's own modules."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from seresnext101_triton import __version__, client, export
from seresnext101_triton.__main__ import COMMANDS
from seresnext101_triton.client.cli import _parser as client_parser
from seresnext101_triton.client.images import sample_photographs

PROJECT = Path(__file__).parents[1]
PACKAGES = ("client", "export", "perf", "seresnext101_triton", "server")
FREE = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that pip builds from the files that git has."""
    source = tmp_path_factory.mktemp("source")
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=PROJECT, text=True).split("\0")
    for name in names:
        if name.startswith((*PACKAGES, "pyproject.toml", "README.md", "LICENSE")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, source / name, follow_symlinks=False)
    folder = tmp_path_factory.mktemp("wheel")
    build = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    subprocess.run([sys.executable, "-m", "pip", "wheel", *build, source], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A new environment with the wheel; other packages, except torch, come from the current one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    install = ("install", "--quiet", "--no-deps", "--no-index", wheel)
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    missing = 'raise ModuleNotFoundError("No module named \'torch\'", name="torch")\n'
    (site / "torch.py").write_text(missing)
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with modules of the names of our packages."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in PACKAGES:
        (folder / f"{name}.py").write_text(
            "raise SystemExit('the module of the user was imported')"
        )
    (folder / "export.py").unlink()
    (folder / "export").mkdir()
    (folder / "export/__init__.py").write_text("raise SystemExit('the user package was imported')")
    return folder


def run(environment: Path, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(environment / "bin/seresnext101"), *map(str, arguments)]
    variables = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120
    )


def test_the_wheel_holds_the_packages_and_their_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = "seresnext101_triton"
    assert {name.partition("/")[0] for name in names} == {
        package,
        f"{package}-{__version__}.dist-info",
    }
    assert {f"{package}/py.typed"} <= names
    assert {f"{package}/{name}/__init__.py" for name in PACKAGES if name != package} <= names
    assert {f"{package}/client/photographs/{path.name}" for path in sample_photographs()} <= names
    assert {f"{package}/export/labels/imagenet1k.txt", f"{package}/perf/report.html.j2"} <= names


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_explains_itself_from_any_folder(environment, hostile, command):
    result = run(environment, hostile, *command.split(), "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: seresnext101 {command}".rstrip())
    assert "python -m" not in result.stdout


@pytest.mark.parametrize("command", [(), ("export",), ("serve",), ("perf",)])
def test_the_version(environment, hostile, command):
    result = run(environment, hostile, *command, "--version")
    assert (result.returncode, result.stdout) == (0, f"seresnext101 {__version__}\n")


@pytest.mark.parametrize("package", ["client", "export", "perf", "server"])
def test_the_version_by_module(package):
    result = subprocess.run(
        [sys.executable, "-m", package, "--version"], cwd=PROJECT, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (0, f"seresnext101 {__version__}\n")


def test_the_console_command_knows_every_command_of_the_client():
    commands = re.findall(r"^    (\w+) ", client_parser().format_help(), flags=re.MULTILINE)
    assert [name for name, (package, _) in COMMANDS.items() if package == "client"] == commands


def test_an_unknown_command_names_those_that_exist(environment, hostile):
    result = run(environment, hostile, "server")
    assert result.returncode == 2
    assert "'export', 'serve', 'classify'" in result.stderr


def test_serving_needs_no_torch(environment, hostile, repository):
    photograph = sample_photographs()[0]
    command = ("seresnext101", "classify", photograph, "--json")
    serve = ("serve", "--repository", repository, "--model", "tiny_onnx", *FREE, "--")
    result = run(environment, hostile, *serve, *command, "--model", "tiny_onnx")
    assert result.returncode == 0, result.stderr
    answer = json.loads(
        result.stdout[result.stdout.index("\n[" if "\n[" in result.stdout else "\n{") :]
    )
    assert photograph.name in json.dumps(answer)


def test_a_missing_package_names_its_extra(environment, hostile, repository):
    serve = ("serve", "--repository", repository, "--model", "tiny_torchscript", *FREE)
    result = run(environment, hostile, *serve)
    assert result.returncode == 1
    assert (
        "needs torch, which is not installed: pip install '.[serve-torchscript]'" in result.stderr
    )


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("export", "--weights", "seeded"), "export,cpu"),
        (("perf", "precision", "--device", "cpu"), "perf,cpu"),
    ],
)
def test_a_command_without_its_packages_names_their_extra(environment, hostile, command, extra):
    result = run(environment, hostile, *command)
    line = f"error: torch is not installed: pip install '.[{extra}]'\n"
    assert (result.returncode, result.stderr) == (69, line)


def test_exporting_from_python_is_one_call(tmp_path):
    script = (
        "import sys, export\n"
        "assert 'torch' not in sys.modules\n"
        "from pathlib import Path\n"
        "from seresnext101_triton.export import Request, export\n"
        "from seresnext101_triton.export.network import ARCHITECTURES\n"
        "tiny = ARCHITECTURES['se-resnext-tiny']\n"
        "request = Request('seeded', Path(sys.argv[1]), ('torchscript',), architecture=tiny)\n"
        "(outcome,) = export(request)\n"
        "print(outcome.artifact)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = (sys.executable, "-c", script, tmp_path)
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.stderr == ""
    assert result.stdout == f"{tmp_path}/seresnext101_torchscript/1/model.pt\n"


@pytest.mark.parametrize("package", [client, export])
def test_every_public_name_can_be_imported(package):
    assert sorted(package.__all__) == package.__all__
    for name in package.__all__:
        assert getattr(package, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018
