"""A format and a precision from outside the project, from the command line to the real server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.export.cli import main
from seresnext101_triton.export.config import from_text
from seresnext101_triton.export.errors import OptionError
from seresnext101_triton.export.formats import FORMATS
from seresnext101_triton.export.precision import PRECISIONS
from seresnext101_triton.server import installation, runtimes
from seresnext101_triton.server.launcher import Server
from tests.conftest import FREE_PORTS, tiny_request
from tests.export.toy.format import BF16_WEIGHTS, ExportedProgram

BACKENDS = Path(__file__).with_name("toy") / "backends"
ARGUMENTS = [
    "--weights",
    "seeded",
    "--architecture",
    "se-resnext-tiny",
    "--crop",
    "64",
    "--max-batch",
    "4",
    "--name",
    "tiny",
    "--instances",
    "1",
]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """All that adding them takes: one line for each in a table, and where the backend lies."""
    monkeypatch.setitem(FORMATS, "program", ExportedProgram())
    monkeypatch.setitem(PRECISIONS, "bf16w", BF16_WEIGHTS)
    monkeypatch.setattr(installation, "BACKEND_FOLDERS", [*installation.BACKEND_FOLDERS, BACKENDS])


@pytest.fixture
def run(tmp_path, capsys):
    def run(*arguments: str) -> tuple[int, list[dict], str]:
        code = main(
            [
                *ARGUMENTS,
                "--formats",
                "program",
                "--repository",
                str(tmp_path / "models"),
                "--json",
                *arguments,
            ]
        )
        out, err = capsys.readouterr()
        return code, json.loads(out or "[]"), err

    return run


def test_it_is_exported_proven_and_served(run, tmp_path):
    code, (fp32,), err = run()
    assert code == 0, err
    assert "exporting program" in err and "checking program against the network" in err
    assert fp32["model"] == "tiny_program"
    assert (
        fp32["manifest"]["parity"]["relative_error"] <= fp32["manifest"]["parity"]["bound"] == 1e-5
    )
    code, (narrow,), err = run("--precision", "bf16w", "--threads", "1")
    assert code == 0, err
    assert narrow["model"] == "tiny_program_bf16w"
    assert (
        1e-5
        < narrow["manifest"]["parity"]["relative_error"]
        <= narrow["manifest"]["parity"]["bound"]
        == 1e-1
    )
    assert narrow["manifest"]["ranges"]["headroom"] > 1e30  # bfloat16 reaches as far as FP32
    config = from_text((tmp_path / "models" / "tiny_program_bf16w" / "config.pbtxt").read_text())
    assert (config.backend, config.parameters["threads"].string_value) == ("exported_program", "1")
    with Server(tmp_path / "models", ports=FREE_PORTS) as server:
        for model in ("tiny_program", "tiny_program_bf16w"):
            artifact = tmp_path / "models" / model / "1" / "model.pt2"
            with Classifier(server.url, model) as classifier:
                image = classifier.prepare(sample_photographs()[0])[None]
                alone = runtimes.load(ExportedProgram.runtime, artifact, {"threads": "1"}).run(
                    image
                )
                np.testing.assert_allclose(classifier.infer(image), alone, rtol=1e-5)


def test_it_is_not_made_again_unless_its_own_options_change(run):
    assert run()[1][0]["made"]
    assert not run()[1][0]["made"]
    assert run("--strict")[1][0]["made"]


def test_its_errors_and_its_help_are_the_command_lines(run, capsys):
    assert run("--precision", "int8", "--calibration", ".")[2] == (
        "error: program is not exported in int8: choose from fp32, bf16w\n"
    )
    assert (
        run("--device", "gpu")[2]
        == "error: program is served on CPUs only: leave --device gpu out, or the format\n"
    )
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "program: PyTorch's exported programs, for CPUs",
        "--strict trace through",
        "bf16w (program)",
    ):
        assert words in said


def test_a_format_that_is_not_in_the_table_is_refused(tmp_path, monkeypatch):
    """A model's config is written by its format's name alone, also by later exports."""
    monkeypatch.delitem(FORMATS, "program")
    with pytest.raises(OptionError, match="unknown format program: choose from torchscript"):
        tiny_request(tmp_path, formats=(ExportedProgram(),))
