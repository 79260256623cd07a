"""Tables of measured values, and the one text form of a percentile and of an interval.

A table is shown in a terminal, in Markdown and in HTML; its cells are text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seresnext101_triton.perf.records import (
    AdviceRecord,
    ComparisonRecord,
    Point,
    PrecisionThroughput,
)
from seresnext101_triton.perf.settings import AdviceOutcome, Contestant, TuningOutcome
from seresnext101_triton.perf.turns import Ratio

SPREAD = "median (10 % – 90 %)"  # what `spread` shows, for headers
_POINT_HEADER = (
    *("model", "concurrency", "images/s", "p50 ms", "p90 ms", "p99 ms", "queue ms", "compute ms"),
    *("mean batch", "server cores", "MiB", "cache hits", ""),
)


@dataclass(frozen=True)
class Table:
    """Rows of text under a header. The first column is aligned left, the others right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def spread(values: Sequence[float]) -> str:
    """The median with the 10th and the 90th percentile, as text."""
    low, middle, high = np.percentile(values, (10, 50, 90))
    return f"{middle:.1f} ({low:.1f} – {high:.1f})"


def interval(ratio: Ratio, digits: int = 3) -> str:
    """A ratio with its confidence interval, as text."""
    value, low, high = (f"{each:.{digits}f}" for each in (ratio.value, ratio.low, ratio.high))
    return f"{value} ({low} – {high})"


def point_table(points: Sequence[Point]) -> Table:
    """One row for each measured load."""
    return Table(_POINT_HEADER, [_point_row(point) for point in points])


def comparison_table(record: ComparisonRecord) -> Table:
    """The values of each contestant and their ratio to those of the first."""
    rows = [
        [name, spread(turns), interval(record.ratios[name]) if name in record.ratios else "1"]
        for name, turns in record.turns.items()
    ]
    return Table(["", f"{record.unit}, {SPREAD}", f"ratio to {next(iter(record.turns))}"], rows)


def tuning_table(outcome: TuningOutcome) -> Table:
    """One row for each trial of a search."""
    rows = []
    for trial in outcome.trials:
        setting = trial.setting
        numbers = (setting.instances, setting.threads, setting.max_batch, setting.delay_us)
        p99 = f"{trial.p99_ms:.1f}" if trial.within else f"{trial.p99_ms:.1f} over"
        rows.append([trial.step, *map(str, numbers), f"{trial.throughput:.1f}", p99])
    header = ["question", "instances", "threads", "largest batch", "delay us", "images/s", "p99 ms"]
    return Table(header, rows)


def tuning_verdict(outcome: TuningOutcome) -> str:
    """What a search found, in one or two sentences."""
    trials = f"{len(outcome.trials)} trials, where a full grid has {outcome.grid}."
    if outcome.confirmed is None:
        return f"The old configuration is the best. {trials}"
    gain = f"measured again, has {interval(outcome.confirmed)} times"
    if outcome.chosen is None:
        return f"The old configuration stays: the best trial, {gain} its throughput. {trials}"
    return f"The chosen configuration, {gain} the throughput of the old one. {trials}"


def advice_table(outcome: AdviceOutcome) -> Table:
    """One row for each contestant, the best first."""
    header = ["model", "instances", "threads", "batches", "images/s", "p99 ms", "lost accuracy"]
    return Table(
        [*header, "ratio to the best, 99 % interval", ""],
        [_contestant_row(each, outcome.best) for each in outcome.contestants],
    )


def _contestant_row(each: Contestant, best: Contestant) -> list[str]:
    about = np.median(each.throughput) / np.median(best.throughput)
    ratio = interval(each.ratio, 2) if each.ratio else f"{about:.2f}"
    return [
        each.model,
        str(each.setting.instances),
        str(each.setting.threads or "all"),
        f"to {each.setting.max_batch}" if each.setting.max_batch else "none",
        f"{np.median(each.throughput):.1f}",
        f"{np.median(each.p99_ms):.0f}",
        f"{each.loss:.1%}" if each.loss else "none",
        ratio,
        "the best" if each is best else each.left or "not certainly slower",
    ]


def advice_verdict(record: AdviceRecord) -> list[str]:
    """What is the best, how certain that is, and what would change it: one sentence each."""
    best, rounds = record.best, len(record.best.throughput)
    bound = f" with a p99 of {record.p99_ms:g} ms at most" if record.p99_ms else ""
    load = f"{record.concurrency} requests in flight, one image in each{bound}"
    lines = [f"The best for {load}: {best.model} with {best.setting}."]
    if record.equals:
        names = ", ".join(f"{each.model} ({each.setting.short})" for each in record.equals)
        lines.append(
            f"After {rounds} rounds it is not certain that these are slower: {names}. More time, "
            "`--minutes`, tells them apart if they differ."
        )
    else:
        lines.append(
            f"Every other one is slower with 99 % confidence, or by far, in {rounds} rounds."
        )
    lines.append(
        f"This holds for {record.machine.cpu}, {record.machine.cores} cores. Another processor, a "
        "GPU, more cores or another load may change it: run the same command there."
    )
    return lines


def precision_table(results: Sequence[PrecisionThroughput]) -> Table:
    """The median throughput: one row for each batch size, one column for each precision."""
    names = list(dict.fromkeys(result.name for result in results))
    rows = [
        [str(batch)]
        + [f"{np.median(each.images_per_second):.1f}" for each in results if each.batch == batch]
        for batch in dict.fromkeys(result.batch for result in results)
    ]
    return Table(["batch", *names], rows)


def _point_row(point: Point) -> list[str]:
    level = f"{point.load.rate:g}/s" if point.load.rate else str(point.load.concurrency)
    latency = [point.latency[name] for name in ("p50", "p90", "p99")]
    figures = (point.throughput, *latency, point.phases["queue"], point.phases["compute"])
    usage = (
        _number(point.server.mean_batch, 2),
        _number(point.server.cores, 2),
        _number(point.server.memory_mib, 0),
        f"{point.server.cached:.0%}" if point.server.cached else "",
    )
    stable = "" if point.stable else "unstable"
    return [point.load.series, level, *(f"{figure:.1f}" for figure in figures), *usage, stable]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
