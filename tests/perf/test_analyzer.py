"""Finding perf_analyzer, and refusing what only has its name."""

from __future__ import annotations

import subprocess

import pytest

from seresnext101_triton.perf import analyzer
from seresnext101_triton.perf.cli import main
from seresnext101_triton.perf.errors import AnalyzerMissing


def test_the_one_that_make_fetched_runs():
    program, environment = analyzer.find()
    done = subprocess.run([program, "--help"], env=environment, capture_output=True, text=True)
    assert "--concurrency-range" in done.stdout + done.stderr


def test_none_at_all(tmp_path, monkeypatch, capsys, server):
    monkeypatch.setattr(analyzer, "FOLDER", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (
        main(
            [
                "sweep",
                "--url",
                server.url,
                "--model",
                "tiny_onnx",
                "--results",
                str(tmp_path / "r.jsonl"),
            ]
        )
        == 69
    )
    err = capsys.readouterr().err
    assert (
        "there is no perf_analyzer: `make perf-analyzer` fetches NVIDIA's" in err
        and err.count("\n") == 1
    )


def test_the_placeholder_of_the_registry(tmp_path, monkeypatch):
    """Release 0.1.0 of `perf_analyzer` is a script of two lines that does nothing."""
    (tmp_path / "perf_analyzer").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "perf_analyzer").chmod(0o755)
    monkeypatch.setattr(analyzer, "FOLDER", tmp_path)
    with pytest.raises(AnalyzerMissing, match="empty placeholder"):
        analyzer.find()


def test_one_whose_libraries_are_missing(tmp_path, monkeypatch):
    program, _ = analyzer.find()
    (tmp_path / "perf_analyzer").write_bytes(program.read_bytes())
    (tmp_path / "perf_analyzer").chmod(0o755)
    monkeypatch.setattr(analyzer, "FOLDER", tmp_path)
    with pytest.raises(
        AnalyzerMissing, match=r"does not run here: .*cannot open shared object file"
    ):
        analyzer.find()
