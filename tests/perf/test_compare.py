"""Comparisons by turns: no difference where there is none, and the one that is there, on a machine that drifts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest

from perf import results
from perf.cli import main
from perf.compare import compare, ratio_of
from perf.load import Load


def drifting(seed: int, speed: float = 1.0) -> tuple[Callable[[], float], Callable[[], float]]:
    """Two contestants on one machine whose speed wanders by a third while single turns scatter by 3 %."""
    generator = np.random.default_rng(seed)
    clock = iter(range(1000))

    def turn(own: float) -> float:
        return own * (1 + 0.33 * np.sin(next(clock) / 15)) * generator.normal(1, 0.03) * 100

    return lambda: turn(1.0), lambda: turn(speed)


@pytest.mark.parametrize("seed", range(10))
def test_a_model_against_itself_shows_no_difference(seed):
    first, second = drifting(seed)
    ratio = compare({"one": first, "again": second}, 8).ratio("again")
    assert not ratio.differs


@pytest.mark.parametrize("seed", range(10))
def test_a_slowdown_of_a_tenth_is_found(seed):
    first, second = drifting(seed, speed=0.9)
    ratio = compare({"one": first, "slower": second}, 12).ratio("slower")
    assert ratio.differs and ratio.high < 1
    assert ratio.value == pytest.approx(0.9, abs=0.05)


def test_who_goes_first_changes_from_round_to_round():
    order: list[str] = []

    def contestant(name: str) -> Callable[[], float]:
        return lambda: order.append(name) or 1.0

    compare({name: contestant(name) for name in "abc"}, 3)
    assert "".join(order) == "abccbaabc"


def test_one_round_has_no_interval():
    with pytest.raises(ValueError, match="two rounds at least"):
        ratio_of([1.0], [1.0])


def test_served_and_raw_side_by_side(repository, server, tmp_path, capsys):
    """The served contestant is slower than its own runtime by far at this size, so that the gate closes."""
    command = ["compare", "raw:tiny_onnx", f"tiny_onnx@{server.url}", "--repository", str(repository), "--rounds", "3", "--seconds", "0.9"]
    results = tmp_path / "results.jsonl"
    assert main([*command, "--results", str(results), "--fail-under", "0.001"]) == 0
    assert "ratio to raw:tiny_onnx" in capsys.readouterr().out
    record = json.loads(results.read_text())
    assert {name: len(turns) for name, turns in record["turns"].items()} == {"raw:tiny_onnx": 3, f"tiny_onnx@{server.url}": 3}
    assert main([*command, "--results", str(results), "--fail-under", "1000", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["rounds"] == 3
    assert "is certainly below 1000 times raw:tiny_onnx" in captured.err


def saved_run(path, factor: float, cores: int = 2) -> str:
    """A file of results with four loads; the machine and the schema are those of a real one."""
    for concurrency in (1, 2, 4, 8):
        load = asdict(Load("m", concurrency=concurrency))
        results.append(path, "point", {"machine": {"cores": cores}, "load": load, "throughput": factor * (10 + concurrency)})
    return str(path)


def test_saved_runs(tmp_path, capsys):
    before, after = saved_run(tmp_path / "before.jsonl", 1.0), saved_run(tmp_path / "after.jsonl", 0.8)
    results.append(tmp_path / "after.jsonl", "point", {"machine": {"cores": 2}, "load": asdict(Load("new")), "throughput": 1.0})
    assert main(["compare", before, after]) == 0
    out = capsys.readouterr().out
    assert "0.800 (0.800 – 0.800)" in out and "m, batch 1, concurrency 4, grpc" in out and "new" not in out
    assert main(["compare", before, after, "--fail-under", "0.9", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ratios"][after]["value"] == pytest.approx(0.8)


def test_saved_runs_that_cannot_be_compared(tmp_path, capsys):
    before, other = saved_run(tmp_path / "before.jsonl", 1.0), saved_run(tmp_path / "other.jsonl", 1.0, cores=64)
    for contestants, message in {
        (before, other): "of 2 machines",
        (before, "tiny_onnx"): "compared with saved runs",
        (before, before): "same file twice",
        (before, str(tmp_path / "none.jsonl")): "share 0 loads",
    }.items():
        assert main(["compare", *contestants]) == 1
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "usage", [["compare", "a", "b", "--rounds", "1"], ["sweep", "--concurrency", "0"], ["sweep", "--protocols", "ftp"]]
)
def test_wrong_usage(usage, capsys):
    with pytest.raises(SystemExit) as ended:
        main(usage)
    assert ended.value.code == 2
    assert "error: argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("contestants", "message"),
    [
        (["tiny_onnx"], "needs two contestants at least"),
        (["raw:tiny_onnx", "raw:nothing"], "holds no model nothing"),
        (["tiny_onnx", "nothing"], "holds no exported model nothing"),
    ],
)
def test_what_cannot_be_compared(repository, capsys, contestants, message):
    assert main(["compare", *contestants, "--repository", str(repository)]) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
