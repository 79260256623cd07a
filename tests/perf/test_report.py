"""The report: whole in itself, with a command for every figure, and of one machine."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from seresnext101_triton.perf import plots, results
from seresnext101_triton.perf.cli import main
from seresnext101_triton.perf.cpu import BATCHES, EAGER, VARIANTS
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.records import (
    RECORD_TYPES,
    AdviceRecord,
    CpuMeasurement,
    CpuRecord,
    Load,
    ModelDescription,
    Point,
    PrecisionRecord,
    PrecisionThroughput,
    Record,
    TuningRecord,
)
from seresnext101_triton.perf.reporting import report
from seresnext101_triton.perf.settings import (
    Confirmation,
    Contestant,
    Setting,
    Trial,
    TuningOutcome,
)
from seresnext101_triton.perf.turns import Ratio
from tests.perf.values import CIRCUMSTANCES, MACHINE, comparison, point


def measured(model: str, concurrency: int, throughput: float, **changes) -> Point:
    return point(Load(model, concurrency=concurrency), throughput, **changes)


def test_a_page_that_needs_nothing_beside_it(tmp_path):
    records: list[Record] = [
        measured("one", 1, 10.0),
        measured("one", 2, 15.0),
        measured("two", 1, 20.0, stable=False),
        comparison(),
    ]
    paths = report(records, tmp_path)
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
    report([measured("one", 1, 10.0), measured("one", 1, 99.5)], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "99.5" in text and "| 10.0 | 10.0 |" not in text


def test_a_comparison_that_was_made_again_counts_once(tmp_path):
    again = comparison(ratios={"b": Ratio(1.5, 1.4, 1.6)})
    report([comparison(), again], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "1.500 (1.400" in text and "1.950" not in text


def test_several_machines_are_no_report(tmp_path):
    other = measured("one", 1, 10.0, machine=replace(MACHINE, cores=4))
    with pytest.raises(PerfError, match="of 2 machines"):
        report([measured("one", 1, 10.0), other], tmp_path)


def test_every_kind_of_record_is_shown(tmp_path):
    """A report is made from a results file, so this is the whole way from measurement to page."""
    stored: list[Record] = [
        measured("one", 1, 10.0),
        comparison(),
        TuningRecord(
            **CIRCUMSTANCES | {"command": "tune"},
            **vars(OUTCOME),
            model=MODEL,
            load=Load("m"),
            p99_ms=None,
        ),
        AdviceRecord(
            **CIRCUMSTANCES | {"command": "advise"},
            contestants=[
                Contestant("fast", NEW, 0.0, [12.0] * 3, [8.0] * 3, None, ""),
                Contestant("near", OLD, 0.031, [11.0] * 3, [9.0] * 3, Ratio(0.92, 0.8, 1.1), ""),
                Contestant("slow", OLD, 0.0, [3.0], [99.0], None, "slower after 1 round"),
            ],
            concurrency=8,
            p99_ms=50.0,
            max_loss=0.05,
            refused=[],
        ),
        CpuRecord(**CIRCUMSTANCES | {"command": "cpu"}, **vars(cpu_measurement())),
        PrecisionRecord(
            **CIRCUMSTANCES | {"command": "precision"},
            device="cpu",
            torch="2",
            cuda=None,
            images_per_second=[PrecisionThroughput("eager FP16", 8, [3.0, 4.0, 5.0])],
        ),
    ]
    assert {type(record) for record in stored} == set(RECORD_TYPES.values())
    for record in stored:
        results.append(tmp_path / "results.jsonl", record)
    assert results.read(tmp_path / "results.jsonl") == stored
    assert (
        main(["report", "--results", str(tmp_path / "results.jsonl"), "--output", str(tmp_path)])
        == 0
    )
    page, text = ((tmp_path / name).read_text() for name in ("report.html", "report.md"))
    for words in (
        "Tuning of m",
        "as it is",
        "openvino_int8",
        "INT8 served, throughput",
        "eager FP16",
        "4.0",
        "Side by side",
        "a p99 of 50 ms at most: fast with 2 instances x 1 threads",
        "After 3 rounds it is not certain that these are slower: near (1 x all, batches to 8)",
        "0.92 (0.80 – 1.10)",
        "slower after 1 round",
        "3.1%",
    ):
        assert words in page and words in text
    assert page.count("<svg") == 4 and (tmp_path / "cpu.png").exists()


def cpu_measurement() -> CpuMeasurement:
    turns, latency = {}, {}
    for form in VARIANTS:
        for level in (1, 4):
            turns[f"m_{form} {level}"] = [10.0, 11.0]
            latency[f"m_{form} {level}"] = {"p50": [90.0, 91.0], "p99": [95.0, 99.0]}
        turns |= {f"raw:m_{form} {batch}": [10.0, 12.0] for batch in BATCHES}
    turns |= {f"{EAGER} {batch}": [5.0, 6.0] for batch in BATCHES}
    return CpuMeasurement("m", [1, 4], 2, turns, latency, {f"m_{form}": 100.0 for form in VARIANTS})


MODEL = ModelDescription("m", "1", "onnxruntime_onnx", "seeded", "")
OLD, NEW = Setting(1, 0, 8, 0), Setting(2, 1, 8, 0)
OUTCOME = TuningOutcome(
    [
        Trial("as it is", OLD, 10.0, 5.0, within=True),
        Trial("instances", NEW, 12.0, 25.0, within=False),
    ],
    NEW,
    grid=9,
    confirmed=Confirmation(1.2, 1.1, 1.3, {"as it was": [10.0, 10.0], "tuned": [12.0, 12.0]}),
)


def test_nothing_to_report(tmp_path, capsys):
    (tmp_path / "none.jsonl").touch()
    assert main(["report", str(tmp_path / "none.jsonl"), "--output", str(tmp_path)]) == 1
    assert "there are no results to report: measure first" in capsys.readouterr().err


def test_concurrencies_and_rates_are_not_one_line(tmp_path):
    """A rate of 4 requests per second is no concurrency of 4."""
    loads = [Load("m", concurrency=4), Load("m", concurrency=0, rate=4.0)]
    drawn = plots.draw([point(load) for load in loads], tmp_path)
    text = drawn["throughput against load"].read_text()
    for words in ("concurrency or requests per second", "m, by rate"):
        assert f"<!-- {words}" in text
