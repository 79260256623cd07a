"""The report: whole in itself, with a command for every figure, and of one machine."""

from __future__ import annotations

import re

import pytest

from perf.cli import main
from perf.errors import PerfError
from perf.report import write

AROUND: dict = {
    "measured": "2026-01-01T00:00:00+00:00",
    "command": "python -m perf sweep --model m",
    "commit": "abc",
    "machine": {"cpu": "A CPU", "cores": 2, "memory_gb": 8.0, "gpu": "", "system": "Linux"},
    "versions": {"torch": "2"},
}


def point(model: str, concurrency: int, throughput: float, **changes) -> dict:
    return {
        **AROUND,
        "kind": "point",
        "model": {"name": model, "weights": "seeded"},
        "load": {"model": model, "batch": 1, "concurrency": concurrency, "rate": 0, "protocol": "grpc", "shared_memory": False},
        "throughput": throughput,
        "latency": {"p50": 10.0, "p90": 12.0, "p95": 13.0, "p99": 20.0},
        "phases": {"client send": 0.1, "queue": 2.0, "compute": 7.0},
        "stable": True,
        "server": {"mean_batch": 1.5, "cores": 1.9, "memory_mib": 400.0},
        **changes,
    }


COMPARISON = {
    **AROUND,
    "kind": "comparison",
    "command": "python -m perf compare a b",
    "rounds": 2,
    "turns": {"a": [10.0, 11.0], "b": [20.0, 21.0]},
    "ratios": {"b": {"value": 1.95, "low": 1.9, "high": 2.0}},
}


def test_a_page_that_needs_nothing_beside_it(tmp_path):
    records = [point("one", 1, 10.0), point("one", 2, 15.0), point("two", 1, 20.0, stable=False), COMPARISON]
    paths = write(records, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 3
    assert not re.search(r'(src|href)="(?!#)', page)
    for command in ("python -m perf sweep --model m", "python -m perf compare a b"):
        assert command in page
    assert "seeded, not trained" in page and "NOT comparable with the above" in page
    assert "1 of 3 loads never had three windows" in page
    assert "1.950 (1.900 – 2.000)" in (tmp_path / "report.md").read_text()
    assert {path.suffix for path in paths} == {".html", ".md", ".png"}


def test_a_load_that_was_measured_again_counts_once(tmp_path):
    write([point("one", 1, 10.0), point("one", 1, 99.5)], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "99.5" in text and "| 10.0 | 10.0 |" not in text


def test_a_comparison_that_was_made_again_counts_once(tmp_path):
    again = COMPARISON | {"ratios": {"b": {"value": 1.5, "low": 1.4, "high": 1.6}}}
    write([COMPARISON, again], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "1.500 (1.400" in text and "1.950" not in text


def test_several_machines_are_no_report(tmp_path):
    other = point("one", 1, 10.0, machine=AROUND["machine"] | {"cores": 4})
    with pytest.raises(PerfError, match="of 2 machines"):
        write([point("one", 1, 10.0), other], tmp_path)


def test_nothing_to_report(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none.jsonl"), "--output", str(tmp_path)]) == 1
    assert "there are no results to report: measure first" in capsys.readouterr().err
