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

import seresnext101_triton
from seresnext101_triton import __version__, as_typed, client, export
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
        if name.startswith((*PACKAGES, "pyproject.toml", "setup.py", "README.md", "LICENSE")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, source / name, follow_symlinks=False)
    stale = source / "build/lib/seresnext101_triton/removed.py"  # of an earlier build
    stale.parent.mkdir(parents=True)
    stale.touch()
    folder = tmp_path_factory.mktemp("wheel")
    build = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    subprocess.run([sys.executable, "-m", "pip", "wheel", *build, source], check=True)
    assert [path for path in (source / "build").rglob("*") if path.is_file()] == [stale]
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
    assert f"{package}/removed.py" not in names
    assert {f"{package}/{name}/__init__.py" for name in PACKAGES if name != package} <= names
    assert {f"{package}/client/photographs/{path.name}" for path in sample_photographs()} <= names
    assert {f"{package}/export/labels/imagenet1k.txt", f"{package}/perf/report.html.j2"} <= names


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_explains_itself_from_any_folder(environment, hostile, command):
    result = run(environment, hostile, *command.split(), "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: seresnext101 {command}".rstrip())
    assert "python -m" not in result.stdout


@pytest.mark.parametrize("package", [package for package in PACKAGES if "_" not in package])
def test_a_module_explains_itself_by_its_full_name(environment, tmp_path, package):
    name = f"seresnext101_triton.{package}"
    command = [environment / "bin/python", "-m", name, "--help"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: python -m {name} ")
    assert set(re.findall(r"python -m ([a-z0-9_]+)", result.stdout)) == {"seresnext101_triton"}


@pytest.mark.parametrize(
    ("source", "requirement"),
    [
        (None, "seresnext101-triton[gpu]"),
        ({"url": "file:///a/x.whl"}, "seresnext101-triton[gpu] @ file:///a/x.whl"),
        (
            {"url": "https://a/x.git", "vcs_info": {"vcs": "git", "commit_id": "12ab"}},
            "seresnext101-triton[gpu] @ git+https://a/x.git@12ab",
        ),
    ],
)
def test_extras_are_installed_from_where_the_project_came_from(
    tmp_path, monkeypatch, source, requirement
):
    """`direct_url.json` of PEP 610 says where, unless it was a package index."""
    information = tmp_path / "seresnext101_triton-0.1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: seresnext101-triton\nVersion: 0.1.0\n")
    if source:
        (information / "direct_url.json").write_text(json.dumps(source))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(seresnext101_triton, "__file__", str(tmp_path / "package/__init__.py"))
    text = "x is not installed: pip install '.[gpu]'"
    assert as_typed(text) == f"x is not installed: pip install '{requirement}'"


def test_extras_are_installed_from_the_checkout_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    assert as_typed("pip install '.[gpu]'") == "pip install '.[gpu]'"
    monkeypatch.chdir(tmp_path)
    assert as_typed("pip install '.[gpu]'") == f"pip install '{PROJECT}[gpu]'"


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


def installing(wheel: Path, extras: str) -> str:
    """The command that installs extras of a project that was installed from a wheel."""
    return f"pip install 'seresnext101-triton[{extras}] @ {wheel.as_uri()}'"


def test_a_missing_package_names_its_extra(environment, hostile, repository, wheel):
    serve = ("serve", "--repository", repository, "--model", "tiny_torchscript", *FREE)
    result = run(environment, hostile, *serve)
    assert result.returncode == 1
    command = installing(wheel, "serve-torchscript")
    assert f"needs torch, which is not installed: {command}" in result.stderr


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("export", "--weights", "seeded"), "export,cpu"),
        (("perf", "precision", "--device", "cpu"), "perf,cpu"),
    ],
)
def test_a_command_without_its_packages_names_their_extra(
    environment, hostile, wheel, command, extra
):
    result = run(environment, hostile, *command)
    line = f"error: torch is not installed: {installing(wheel, extra)}\n"
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
