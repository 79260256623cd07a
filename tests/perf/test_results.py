"""Results on disk survive what happens to files."""

from __future__ import annotations

import csv

import pytest

from perf import results
from perf.errors import ResultsError
from tests.export.test_repository import mounted


def test_what_is_added_is_read(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    first = results.append(path, "point", {"throughput": 1.5})
    second = results.append(path, "tuning", {"chosen": None})
    assert results.read(path) == [first, second]
    assert (first["schema"], first["kind"]) == (1, "point")
    assert results.read(tmp_path / "nowhere.jsonl") == []


@pytest.mark.parametrize("kept", [1, 10, -1])
def test_a_line_that_a_kill_cut_off_is_replaced(tmp_path, kept):
    path = tmp_path / "results.jsonl"
    first = results.append(path, "point", {"throughput": 1.5})
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:kept])
    assert results.read(path) == [first]
    second = results.append(path, "point", {"throughput": 2.5})
    assert results.read(path) == [first, second]


@pytest.mark.parametrize("content", ["dear diary\n", '{"schema": 99, "kind": "point"}\n', "[]\n"])
def test_a_file_of_something_else(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(ResultsError, match="does not hold results of schema 1"):
        results.read(path)
    assert path.read_text() == content


def test_a_full_disk_leaves_whole_lines(tmp_path):
    with mounted(tmp_path / "disk", "size=8k"):
        path = tmp_path / "disk" / "results.jsonl"
        kept = [results.append(path, "point", {"text": "x" * 1000})]
        with pytest.raises(ResultsError, match="No space left on device. What it holds is whole"):
            while True:
                kept.append(results.append(path, "point", {"text": "x" * 1000}))
        assert results.read(path) == kept


def test_a_table_for_spreadsheets(tmp_path):
    record = results.append(tmp_path / "r.jsonl", "point", {"throughput": 1.5, "latency": {"p50": 2.0, "p99": 3.0}})
    results.write_csv([record, {"kind": "tuning"}], tmp_path / "r.csv")
    (row,) = csv.DictReader((tmp_path / "r.csv").open())
    assert (row["throughput"], row["latency.p50"], row["latency.p99"]) == ("1.5", "2.0", "3.0")
