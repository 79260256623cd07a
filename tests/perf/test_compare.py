"""Comparisons by turns, on a machine that drifts: a real difference is found, and no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from seresnext101_triton.export.network import ARCHITECTURES
from seresnext101_triton.perf import results
from seresnext101_triton.perf.cli import _parser, main
from seresnext101_triton.perf.comparison import CompareOptions, Contestant, _names, compare_saved
from seresnext101_triton.perf.errors import PerfError, ResultsError
from seresnext101_triton.perf.options import values
from seresnext101_triton.perf.records import Load
from seresnext101_triton.perf.turns import Comparison, Ratio, ratio_of, take_turns
from tests.perf.values import MACHINE, comparison, point


def drifting(seed: int, speed: float = 1.0) -> tuple[Callable[[], float], Callable[[], float]]:
    """Two contestants on a machine whose speed drifts by a third; each turn has 3 % of noise."""
    generator = np.random.default_rng(seed)
    clock = iter(range(1000))

    def turn(own: float) -> float:
        return own * (1 + 0.33 * np.sin(next(clock) / 15)) * generator.normal(1, 0.03) * 100

    return lambda: turn(1.0), lambda: turn(speed)


@pytest.mark.parametrize("seed", range(10))
def test_a_model_against_itself_shows_no_difference(seed):
    first, second = drifting(seed)
    ratio = take_turns({"one": first, "again": second}, 8).ratio("again")
    assert not ratio.differs


@pytest.mark.parametrize("seed", range(10))
def test_a_slowdown_of_a_tenth_is_found(seed):
    first, second = drifting(seed, speed=0.9)
    ratio = take_turns({"one": first, "slower": second}, 12).ratio("slower")
    assert ratio.differs and ratio.high < 1
    assert ratio.value == pytest.approx(0.9, abs=0.05)


def test_who_goes_first_changes_from_round_to_round():
    order: list[str] = []

    def contestant(name: str) -> Callable[[], float]:
        return lambda: order.append(name) or 1.0

    take_turns({name: contestant(name) for name in "abc"}, 3)
    assert "".join(order) == "abccbaabc"


def test_the_values_of_warm_up_rounds_are_not_kept():
    order: list[str] = []

    def contestant(name: str) -> Callable[[], float]:
        return lambda: order.append(name) or float(len(order))

    told: list[int] = []
    turns = {name: contestant(name) for name in "ab"}
    compared = take_turns(turns, 2, warmup_rounds=1, after_turn=lambda: told.append(1))
    assert "".join(order) == "baabba"
    assert compared.turns == {"a": [3.0, 6.0], "b": [4.0, 5.0]} and len(told) == 4


def test_the_same_contestant_more_than_once_has_more_than_one_name():
    assert _names(["a", "b", "a", "a"]) == ["a", "b", "a again", "a again (2)"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m", Contestant("", "m", "")),
        ("m@host:8001", Contestant("", "m", "host:8001")),
        ("m@2", Contestant("", "m@2", "")),
        ("m@2@host:8001", Contestant("", "m@2", "host:8001")),
        ("client:m@2", Contestant("client", "m@2", "")),
        ("raw:m@2", Contestant("raw", "m@2", "")),
        ("raw:m", Contestant("raw", "m", "")),
        ("raw:m@home", Contestant("raw", "m@home", "")),
        ("client:m", Contestant("client", "m", "")),
        ("client:m@host:1", Contestant("client", "m", "host:1")),
        ("peer:fastapi", Contestant("peer", "fastapi", "")),
        ("other:m", Contestant("", "other:m", "")),
    ],
)
def test_what_a_contestant_is_called(text, expected):
    assert Contestant.parse(text) == expected
    assert expected.shares_server is (text in ("m", "client:m", "other:m", "m@2", "client:m@2"))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rounds", [2, 3, 8])
def test_the_interval_is_the_one_of_students_t(seed, rounds):
    """The interval is scipy's own: two-sided at 99 %, over the logarithms of the pairs' ratios.

    It has one degree of freedom less than there are rounds.
    """
    generator = np.random.default_rng(seed)
    turns, base = generator.uniform(5, 20, rounds), generator.uniform(5, 20, rounds)
    logarithms = np.log(turns / base)
    low, high = stats.ttest_1samp(logarithms, 0).confidence_interval(0.99)
    ratio = ratio_of(list(turns), list(base))
    assert ratio.value == pytest.approx(stats.gmean(turns / base))
    assert (ratio.low, ratio.high) == pytest.approx((np.exp(low), np.exp(high)))


def test_the_interval_by_hand():
    """The 99.5 % quantile of Student's t with two degrees of freedom is 9.92484 in every table."""
    ratio = ratio_of([1.0, 2.0, 4.0], [1.0, 1.0, 1.0])
    half = 9.92484 * np.log(2) / np.sqrt(3)
    assert ratio.value == pytest.approx(2)
    assert (ratio.low, ratio.high) == pytest.approx((2 * np.exp(-half), 2 * np.exp(half)), rel=1e-5)


@pytest.mark.parametrize(
    ("low", "high", "differs"),
    [(0.9, 1.1, False), (1.0, 1.1, False), (0.9, 1.0, False), (1.01, 1.1, True), (0.8, 0.99, True)],
)
def test_a_difference_is_one_where_the_interval_leaves_1_out(low, high, differs):
    assert Ratio((low + high) / 2, low, high).differs is differs


def test_the_first_is_what_the_others_are_held_against():
    compared = Comparison({"slow": [10.0, 11.0], "fast": [20.0, 22.0]})
    assert compared.ratio("fast").value == pytest.approx(2)
    assert compared.ratio("slow") == Ratio(1, 1, 1)
    assert compared.base == "slow" and compared.ratios == {"fast": compared.ratio("fast")}


def test_every_turn_is_kept_and_told():
    given = {"a": iter([1.0, 2.0, 3.0]), "b": iter([4.0, 5.0, 6.0])}
    told: list[int] = []
    turns = {name: values.__next__ for name, values in given.items()}
    compared = take_turns(turns, 3, after_turn=lambda: told.append(1))
    assert compared.turns == {"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]} and len(told) == 6


def test_one_round_has_no_interval():
    with pytest.raises(ValueError, match="two rounds at least"):
        ratio_of([1.0], [1.0])
    assert ratio_of([1.0, 1.0], [1.0, 1.0]) == Ratio(1, 1, 1)


def test_served_and_raw_side_by_side(repository, server, tmp_path, capsys):
    """Whatever is measured here, a ratio is above the first bound and below the second."""
    command = [
        "compare",
        "raw:tiny_onnx",
        f"tiny_onnx@{server.url}",
        "--repository",
        str(repository),
        "--rounds",
        "3",
        "--seconds",
        "0.9",
    ]
    results = tmp_path / "results.jsonl"
    assert main([*command, "--results", str(results), "--fail-under", "1e-9"]) == 0
    assert "ratio to raw:tiny_onnx" in capsys.readouterr().out
    record = json.loads(results.read_text())
    assert {name: len(turns) for name, turns in record["turns"].items()} == {
        "raw:tiny_onnx": 3,
        f"tiny_onnx@{server.url}": 3,
    }
    assert main([*command, "--results", str(results), "--fail-under", "1e9", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["rounds"] == 3
    assert "is certainly below 1e+09 times raw:tiny_onnx" in captured.err


def test_the_defaults_of_the_command_are_the_librarys():
    arguments = _parser().parse_args(["compare", "a", "b"])
    assert values(CompareOptions, arguments) == CompareOptions()
    assert CompareOptions().peer_architecture in ARCHITECTURES


def saved_run(path, factor: float, cores: int = 2) -> str:
    """A file of results with four loads; the machine and the schema are those of a real one."""
    for concurrency in (1, 2, 4, 8):
        load = Load("m", concurrency=concurrency)
        machine = replace(MACHINE, cores=cores)
        results.append(path, point(load, factor * (10 + concurrency), machine=machine))
    return str(path)


def test_saved_runs(tmp_path, capsys):
    before, after = (
        saved_run(tmp_path / "before.jsonl", 1.0),
        saved_run(tmp_path / "after.jsonl", 0.8),
    )
    results.append(tmp_path / "after.jsonl", point(Load("new")))
    assert main(["compare", before, after]) == 0
    out = capsys.readouterr().out
    assert (
        "0.800 (0.800 – 0.800)" in out
        and "m, batch 1, concurrency 4, grpc" in out
        and "new" not in out
    )
    assert main(["compare", before, after, "--fail-under", "0.9", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ratios"][after]["value"] == pytest.approx(0.8)


def test_saved_runs_that_cannot_be_compared(tmp_path, capsys):
    before, other = (
        saved_run(tmp_path / "before.jsonl", 1.0),
        saved_run(tmp_path / "other.jsonl", 1.0, cores=64),
    )
    for contestants, message in {
        (before, other): "of 2 machines",
        (before, "tiny_onnx"): "compared with saved runs",
        (before, before): "same file twice",
        (before, str(tmp_path / "none.jsonl")): "none.jsonl does not exist",
    }.items():
        assert main(["compare", *contestants]) == (73 if "exist" in message else 1)
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1


def test_saved_loads_are_the_common_ones_in_the_order_of_the_first(tmp_path):
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    for path, levels in ((before, (8, 4, 2, 1, 4)), (after, (1, 2, 4, 16))):
        for index, level in enumerate(levels):
            results.append(path, point(Load("m", concurrency=level), 100 * level + index))
        results.append(path, comparison())
    common, compared = compare_saved([before, after])
    assert common == [f"m, batch 1, concurrency {level}, grpc" for level in (4, 2, 1)]
    # The last point of each load counts.
    assert compared.turns == {str(before): [404, 202, 103], str(after): [402, 201, 100]}


def test_two_common_loads_are_enough_and_one_is_not(tmp_path):
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for level in (1, 2):
        for path in paths:
            results.append(path, point(Load("m", concurrency=level)))
        if level == 1:
            with pytest.raises(PerfError, match=r"a\.jsonl, .*b\.jsonl share 1 loads"):
                compare_saved(paths)
    assert len(compare_saved(paths)[0]) == 2


@pytest.mark.parametrize(
    "damage",
    [
        {"machine": None},
        {"load": None},
        {"load": {"model": "m", "colour": 1}},
        {"throughput": "fast"},
        {"throughput": None},
    ]
    + [{"throughput": value} for value in (0, -1, float("nan"), float("inf"), [1])]
    + [{"load": 7}],
    ids=repr,
)
def test_a_saved_point_that_is_damaged_is_named(tmp_path, damage):
    path = tmp_path / "damaged.jsonl"
    whole = point(Load("m"))
    results.append(path, whole)
    changed = whole.document() | damage
    if damage.get("machine", "") is None:
        del changed["machine"]
    with path.open("a") as file:
        file.write(json.dumps(changed) + "\n")
    with pytest.raises(
        ResultsError,
        match=r"damaged\.jsonl holds a measured point that cannot be read .*"
        r"sweep into another file",
    ):
        compare_saved([path, path])


@pytest.mark.parametrize(
    "usage",
    [
        ["compare", "a", "b", "--rounds", "2"],
        ["inputs", "a", "--turns", "2"],
        ["preprocessing", "--images", "1000000000000"],
        ["compare", "a", "b", "--batch", "4097"],
        ["sweep", "--batches", "1,4097"],
        ["sweep", "--rates", "0.5,0"],
        ["sweep", "--rates", "nan"],
        ["sweep", "--rates", "1e9"],
        ["sweep", "--concurrency", "0"],
        ["sweep", "--protocols", "ftp"],
        ["sweep", "--rates", "3", "--concurrency", "1"],
    ],
)
def test_wrong_usage(usage, capsys):
    with pytest.raises(SystemExit) as ended:
        main(usage)
    assert ended.value.code == 2
    assert "error: argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("contestants", "code", "message"),
    [
        (["tiny_onnx"], 2, "needs two contestants at least"),
        (["raw:tiny_onnx", "raw:nothing"], 1, "holds no model nothing"),
        (["tiny_onnx", "nothing"], 1, "holds no exported model nothing"),
    ],
)
def test_what_cannot_be_compared(repository, capsys, contestants, code, message):
    assert main(["compare", *contestants, "--repository", str(repository)]) == code
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
