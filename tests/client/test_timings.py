"""`--timings`: the parts of a command's time sum up to all of it, and each is counted once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from seresnext101_triton.client import timings
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.client.timings import OTHER, START, Timings

A_WHILE_S = 0.05


def work(name: str) -> None:
    with timings.part(name):
        time.sleep(A_WHILE_S)


def test_the_parts_are_all_of_the_time():
    before = time.perf_counter()
    measured = Timings(print)
    began = time.perf_counter()
    with measured.part("outer"):
        with measured.part("inner"):
            time.sleep(A_WHILE_S)
        with pytest.raises(ValueError), measured.part("inner"):
            raise ValueError
    least = time.perf_counter() - began
    total = measured.total
    most = time.perf_counter() - before
    assert list(measured.parts) == [START, "outer", "inner", OTHER]
    assert measured.parts["inner"] >= A_WHILE_S
    assert sum(measured.parts.values()) == pytest.approx(total)
    assert least <= total - measured.parts[START] <= most  # more if something counted twice


def test_what_runs_in_other_threads_is_no_part_of_the_total():
    lines: list[str] = []
    with timings.measured(True, lines.append):
        with ThreadPoolExecutor(4) as pool, timings.part("waiting"):
            list(pool.map(work, ["working"] * 4))
        timings.add("elsewhere", 3.0)
        found = timings.to_json()["timings"]
    assert set(found["parts"]) == {START, "waiting", OTHER}
    assert found["beside"]["working"] >= 4 * A_WHILE_S
    assert found["beside"]["elsewhere"] == 3.0
    assert [line.split("  ")[-1].strip() for line in lines[-3:]] == [
        "at the same time, in other threads and processes:",
        "working",
        "elsewhere",
    ]


def test_nothing_is_measured_unless_it_is_wanted():
    lines: list[str] = []
    with timings.measured(False, lines.append):
        work("work")
        timings.add("elsewhere", 3.0)
        assert timings.to_json() == {}
    assert lines == []
    with timings.measured(True, lines.append):
        timings.report()
        told = len(lines)
        work("after the report")
    assert len(lines) == told > 0


def test_where_the_time_of_a_classification_goes(server):
    command = [sys.executable, "-m", "client", "classify", str(sample_photographs()[0])]
    command += ["--model", "tiny_onnx", "--url", server.url, "--json", "--timings"]
    before = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    elapsed = time.perf_counter() - before
    (document,) = json.loads(run.stdout)
    found = document["timings"]
    parts, total = found["parts"], found["total"]
    assert list(parts)[:3] == [START, "finding the images", "importing"]
    assert {"connecting", "classifying", "printing"} <= set(parts)
    assert set(found["beside"]) == {"preparing images", "waiting for the server"}
    assert sum(parts.values()) == pytest.approx(total)
    assert total <= elapsed
    assert parts[OTHER] < total / 4  # a hundredth, as a rule
    rows = {line.split("  ")[-1].strip() for line in run.stderr.splitlines()}
    assert set(parts) | set(found["beside"]) <= rows
