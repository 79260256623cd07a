"""The one text form of percentiles, of intervals and of the verdict on a search."""

from __future__ import annotations

from seresnext101_triton.perf import console
from seresnext101_triton.perf.console import print_table
from seresnext101_triton.perf.records import PrecisionThroughput
from seresnext101_triton.perf.settings import Confirmation, Setting, Trial, TuningOutcome
from seresnext101_triton.perf.tables import Table, interval, precision_table, spread, tuning_verdict
from seresnext101_triton.perf.turns import Ratio


def test_a_spread_is_the_median_with_the_10th_and_the_90th_percentile():
    assert spread([float(value) for value in range(101)]) == "50.0 (10.0 – 90.0)"
    assert spread([3.0]) == "3.0 (3.0 – 3.0)"


def test_an_interval_has_as_many_digits_as_asked_for():
    ratio = Ratio(1.23456, 1.0, 2.0)
    assert interval(ratio) == "1.235 (1.000 – 2.000)" and interval(ratio, 1) == "1.2 (1.0 – 2.0)"


def test_precisions_are_columns_and_batches_rows():
    results = [
        PrecisionThroughput(name, batch, [1.0, batch, 99.0])
        for batch in (1, 8)
        for name in ("a", "b")
    ]
    table = precision_table(results)
    assert table == Table(["batch", "a", "b"], [["1", "1.0", "1.0"], ["8", "8.0", "8.0"]])


def test_the_verdict_on_a_search():
    setting = Setting(1, 0, 8, 0)
    trials = [Trial("as it is", setting, 10.0, 5.0, within=True)]
    confirmed = Confirmation(1.2, 1.1, 1.3, {})
    best = tuning_verdict(TuningOutcome(trials, None, 9, None))
    assert best == "The old configuration is the best. 1 trials, where a full grid has 9."
    assert (
        "stays: the best trial, measured again, has 1.200 (1.100 – 1.300) times its"
        in tuning_verdict(TuningOutcome(trials, None, 9, confirmed))
    )
    assert (
        "The chosen configuration, measured again, has 1.200 (1.100 – 1.300) times"
        in tuning_verdict(TuningOutcome(trials, setting, 9, confirmed))
    )


def test_a_printed_table_is_not_folded_where_nobody_looks(capsys):
    print_table(Table(["", "n"], [["a" * 60, "1"], ["b" * 60, "23"]]), "title")
    assert capsys.readouterr().out.splitlines() == [
        "title",
        " " * 63 + "n",
        "a" * 60 + "   1",
        "b" * 60 + "  23",
    ]


def test_no_figure_is_cut_where_a_terminal_is_narrow(capsys, monkeypatch):
    monkeypatch.setattr(console, "_WIDTH", 20)
    header = ["model", "images/s", "ratio to the best, 99 % interval"]
    print_table(Table(header, [["a" * 12, "1234.5", "1.0 (0.9 – 1.1)"]]), "a title of many words")
    assert capsys.readouterr().out.splitlines() == [
        "a title of many words",
        " " * 12 + "            " + "   ratio to the",
        " " * 12 + "            " + "     best, 99 %",
        "model       " + "  images/s  " + "       interval",
        "a" * 12 + "    1234.5  " + "1.0 (0.9 – 1.1)",
    ]
