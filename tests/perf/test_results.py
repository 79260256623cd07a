"""Results on disk survive what happens to files."""

from __future__ import annotations

import csv
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seresnext101_triton.perf import results
from seresnext101_triton.perf.cli import main
from seresnext101_triton.perf.errors import ResultsError
from seresnext101_triton.perf.records import Load
from tests.export.test_repository import mounted
from tests.perf.values import comparison, point


def test_what_is_added_is_read(tmp_path):
    path = tmp_path / "new" / "folder" / "results.jsonl"
    first = results.append(path, point(Load("m"), 1.5))
    second = results.append(path, comparison())
    assert results.read(path) == [first, second]
    stored = json.loads(path.read_text().splitlines()[0])
    assert (stored["schema"], stored["kind"]) == (1, "point")
    assert results.read(tmp_path / "nowhere.jsonl", may_be_absent=True) == []
    with pytest.raises(ResultsError, match="nowhere.jsonl does not exist: measure first"):
        results.read(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("kept", [1, 10, -1])
def test_a_line_that_a_kill_cut_off_is_replaced(tmp_path, kept):
    path = tmp_path / "results.jsonl"
    first = results.append(path, point(Load("m"), 1.5))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:kept])
    assert results.read(path) == [first]
    second = results.append(path, point(Load("m"), 2.5))
    assert results.read(path) == [first, second]


WHOLE = (json.dumps(comparison().document()) + "\n").encode()
OTHER = WHOLE.replace(b'"schema": 1', b'"schema": 2')


@pytest.mark.parametrize(
    "content",
    [
        b"dear diary\n",
        b'{"schema": 99, "kind": "point"}\n',
        b"[]\n",
        b"7\n",
        b"null\n",
        b"\n",
        b'{"schema": 1}\n',
        b'{"schema": 1, "kind": null}\n',
        b'{"kind": "point"}\n',
        b"\xff\n",
        WHOLE + OTHER,
        OTHER + WHOLE,
        WHOLE + WHOLE[:9] + b"\n" + WHOLE,
        WHOLE + WHOLE[:-1] + WHOLE,
    ],
)
def test_a_file_of_something_else(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ResultsError) as refused:
        results.read(path)
    assert (
        str(refused.value)
        == f"{path} does not hold results of schema 1: name another file with `results`"
    )
    assert path.read_bytes() == content


@pytest.mark.parametrize("p50", [None, 0.0, math.inf, math.nan])
def test_a_point_without_a_latency(tmp_path, p50):
    known = point(Load("m")).document()
    latency = known["latency"] | {"p50": p50}
    if p50 is None:
        del latency["p50"]
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(known | {"latency": latency}) + "\n")
    with pytest.raises(ResultsError, match="holds a measured point that .*a latency p50 of"):
        results.read(path)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("point", "holds a measured point that cannot be read (MISSING): sweep into another file"),
        (
            "comparison",
            "holds a comparison that cannot be read (MISSING): measure into another file",
        ),
        ("tuning", "holds a tuning that cannot be read (MISSING): measure into another file"),
        (
            "cpu",
            "holds a comparison on a CPU that cannot be read (MISSING): measure into another file",
        ),
        (
            "precision",
            "holds a comparison of precisions that cannot be read (MISSING): "
            "measure into another file",
        ),
    ],
)
def test_a_record_without_its_values_is_named(tmp_path, kind, said):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({"schema": 1, "kind": kind}) + "\n")
    with pytest.raises(ResultsError) as refused:
        results.read(path)
    assert re.sub(r"\(\w+: Field required\)", "(MISSING)", str(refused.value)) == f"{path} {said}"


TEXTS = [
    "Größe",
    "\u2028",
    "\x85",
    "\x0b",
    "a\nb\r\n",
    "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    '"\\',
]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_a_cut_anywhere_leaves_the_lines_before(tmp_path, text):
    """What text calls a line break is none here, and a character may be cut in two."""
    path = tmp_path / "results.jsonl"
    first = results.append(path, comparison(command=text))
    one = path.read_bytes()
    assert one.count(b"\n") == 1 and json.loads(one) == first.document()
    assert results.read(path) == [first]
    start = one.index(b'"command"')
    for kept in {*range(0, len(one), 16), *range(start, one.index(b'"commit"'))}:
        path.write_bytes(one + one[:kept])
        assert results.read(path) == [first]
        path.write_bytes(one[:kept])
        assert results.read(path) == []
        second = results.append(path, comparison(command=text))
        assert results.read(path) == [second]


@given(
    content=st.binary(max_size=64)
    | st.lists(st.sampled_from([WHOLE, WHOLE[:-1], b"\n", b"{}", b"[1]\n", b"\xc3"])).map(b"".join)
)
def test_any_file_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    try:
        found = results.read(path)
    except ResultsError as error:
        assert str(path) in str(error)
    else:
        assert len(found) == content.count(b"\n")
        assert all(record.document()["schema"] == 1 for record in found)


def test_the_command_line_names_its_flag(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("dear diary\n")
    assert main(["report", "--results", str(tmp_path / "notes.txt")]) == 73
    assert capsys.readouterr().err.endswith(
        "does not hold results of schema 1: name another file with --results\n"
    )


def test_text_is_kept_readable(tmp_path):
    results.append(tmp_path / "r.jsonl", comparison(command="Größe"))
    assert "Größe" in (tmp_path / "r.jsonl").read_text(encoding="utf-8")


def test_a_folder_in_the_place_of_a_file(tmp_path):
    with pytest.raises(ResultsError, match="cannot be read: Is a directory"):
        results.read(tmp_path)
    with pytest.raises(
        ResultsError, match="cannot be written: Is a directory. What it holds is whole"
    ):
        results.append(tmp_path, comparison())
    with pytest.raises(ResultsError, match="cannot be written: Is a directory"):
        results.write_csv([{"kind": "point", "a": 1}], tmp_path)


def test_a_full_disk_leaves_whole_lines(tmp_path):
    with mounted(tmp_path / "disk", "size=8k"):
        path = tmp_path / "disk" / "results.jsonl"
        kept = [results.append(path, comparison(command="x" * 1000))]
        with pytest.raises(ResultsError, match="No space left on device. What it holds is whole"):
            while True:
                kept.append(results.append(path, comparison(command="x" * 1000)))
        assert results.read(path) == kept
        # Nothing is left of the last record.
        assert path.read_bytes().count(b"\n") == len(kept) and path.read_bytes().endswith(b"\n")


def test_a_table_for_spreadsheets(tmp_path):
    record = {"schema": 1, "kind": "point", "throughput": 1.5, "latency": {"p50": 2.0, "p99": 3.0}}
    results.write_csv([record, {"kind": "tuning"}], tmp_path / "r.csv")
    (row,) = csv.DictReader((tmp_path / "r.csv").open())
    assert row == {
        "schema": "1",
        "kind": "point",
        "throughput": "1.5",
        "latency.p50": "2.0",
        "latency.p99": "3.0",
    }


def test_a_table_has_a_column_for_everything_that_any_point_has(tmp_path):
    path = tmp_path / "r.csv"
    results.write_csv(
        [{"kind": "point", "ä": "x\ny", "deep": {"a": {"b": 1}}}, {"kind": "point", "z": 2}], path
    )
    assert path.read_bytes().decode("utf-8").startswith("kind,ä,deep.a.b,z\r\n")
    with path.open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["ä"], first["deep.a.b"], first["z"]) == ("x\ny", "1", "") and second["z"] == "2"


def test_without_a_point_there_is_no_table(tmp_path):
    results.write_csv([{"kind": "tuning"}], tmp_path / "r.csv")
    assert not (tmp_path / "r.csv").exists()


def test_whether_results_can_be_written_is_known_before(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    results.check_writable(path)
    assert not path.exists()
    path.write_text("kept")
    results.check_writable(path)
    assert path.read_text() == "kept"
    with pytest.raises(ResultsError, match="new cannot be written: Is a directory. Name another"):
        results.check_writable(path.parent)
