"""The commands: each is one module, explains itself, and shares its options with the others."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from seresnext101_triton import perf
from seresnext101_triton.perf import commands
from seresnext101_triton.perf.cli import main

HEAVY = {"numpy", "PIL", "torch", "pydantic", "matplotlib", "tritonclient", "grpc", "rich"}


def options_of(name: str) -> dict[str, argparse.Action]:
    parser = argparse.ArgumentParser()
    commands.load(name).add_arguments(parser)
    return {option: action for action in parser._actions for option in action.option_strings}


def test_every_module_of_the_folder_is_a_command():
    files = Path(commands.__file__).parent.glob("[a-z]*.py")
    assert sorted(path.stem for path in files) == sorted(commands.COMMANDS)


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_a_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    description = commands.load(name).__doc__ or ""
    assert " ".join(description.split()) in " ".join(capsys.readouterr().out.split())


def test_no_command_imports_heavy_packages_before_it_runs():
    script = (
        "import sys; from seresnext101_triton.perf.cli import _parser; _parser(); "
        f"print({HEAVY} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_an_option_means_the_same_in_every_command():
    metavars: dict[str, set[object]] = {}
    for name in commands.COMMANDS:
        for option, action in options_of(name).items():
            metavars.setdefault(option, set()).add((action.metavar, action.type is Path))
    # A sweep takes a list where a comparison takes one number.
    assert {option for option, found in metavars.items() if len(found) > 1} == {"--concurrency"}
    assert metavars["--results"] == {("FILE", True)} and metavars["--output"] == {("DIR", True)}


@pytest.mark.parametrize(
    "command",
    [["cpu"], ["precision", "--device", "cpu"]],
    ids=lambda command: command[0],
)
def test_an_architecture_that_does_not_exist_is_wrong_usage(command, tmp_path, capsys):
    assert (
        main([*command, "--architecture", "nothing", "--results", str(tmp_path / "r.jsonl")]) == 2
    )
    assert "error: unknown architecture nothing: choose from " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_interrupted_measurement_ends_at_once_and_in_one_line(repository):
    """The runtime still computes in a thread. Its C++ library aborts if the process ends slowly."""
    script = (
        "import runpy\nfrom seresnext101_triton.perf.raw import RawModel\n"
        "measure = RawModel.throughput\n"
        "RawModel.throughput = lambda *args: print('measuring', flush=True) or measure(*args)\n"
        "runpy.run_module('seresnext101_triton.perf', run_name='__main__')"
    )
    command = ["raw", "--repository", repository, "--model", "tiny_onnx", "--seconds", "100000"]
    with subprocess.Popen(
        [sys.executable, "-c", script, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "measuring\n"
        running.terminate()
        _, said = running.communicate(timeout=300)
    assert (running.returncode, said) == (
        130,
        "interrupted; nothing of this was kept: run it again\n",
    )


def test_an_http_endpoint_belongs_to_a_server_that_runs(capsys):
    assert main(["sweep", "--http-url", "127.0.0.1:8000"]) == 2
    assert capsys.readouterr().err == (
        "error: --http-url is of a server that already runs: name it with --url\n"
    )


def test_results_are_not_overwritten_by_their_table(tmp_path, capsys):
    assert main(["sweep", "--results", str(tmp_path / "results.csv")]) == 2
    assert "results.csv is the name of the table: name a file like" in capsys.readouterr().err


def test_the_public_names():
    for name in perf.__all__:
        assert getattr(perf, name).__doc__
    with pytest.raises(AttributeError, match="module 'perf' has no attribute 'nothing'"):
        perf.nothing  # noqa: B018
