"""Pictures of a sweep, as PNG and SVG: latency against throughput, throughput against concurrency, and where the time goes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from cycler import cycler

from perf.results import Record

_COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#777777",
)  # Okabe and Ito's, which colour-blind people tell apart
_STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
    "svg.hashsalt": "perf",
    "axes.prop_cycle": cycler(color=_COLORS),
}


@contextmanager
def picture(path: Path) -> Iterator[Any]:
    """Axes to draw on, in the style of all pictures; they become an SVG, and a PNG beside it."""
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
        yield axes
        figure.savefig(path, metadata={"Date": None})
        figure.savefig(path.with_suffix(".png"), dpi=150)
        plt.close(figure)


def draw(points: Sequence[Record], folder: Path) -> dict[str, Path]:
    """Draw every picture that the points allow.

    Returns:
        The SVG of each, by name; a PNG lies beside it.
    """
    pictures: dict[str, Callable[[Any, Sequence[Record]], None]] = {
        "latency against throughput": _latency,
        "throughput against load": _throughput,
        "where the time goes": _phases,
    }
    drawn = {}
    for name, plot in pictures.items():
        drawn[name] = folder / f"{name.replace(' ', '-')}.svg"
        with picture(drawn[name]) as axes:
            plot(axes, points)
    return drawn


def level_of(record: Record) -> float:
    """Concurrency, or requests a second."""
    return float(record["load"]["rate"] or record["load"]["concurrency"])


def series_of(record: Record) -> str:
    """What is drawn as one line: a model at one batch size, over one protocol."""
    load = record["load"]
    batch = f", batch {load['batch']}" if load["batch"] > 1 else ""
    return f"{load['model']}{batch}{', HTTP' * (load['protocol'] == 'http')}{', shared memory' * load['shared_memory']}"


def _series(points: Sequence[Record]) -> dict[str, list[Record]]:
    series = defaultdict(list)
    for point in sorted(points, key=level_of):
        series[series_of(point)].append(point)
    return series


def _latency(axes: Any, points: Sequence[Record]) -> None:
    for name, line in _series(points).items():
        rates = [point["throughput"] for point in line]
        (drawn,) = axes.plot(rates, [point["latency"]["p50"] for point in line], "o-", label=name)
        axes.plot(rates, [point["latency"]["p99"] for point in line], "o--", color=drawn.get_color(), alpha=0.6, markersize=4)
        for point in line:
            axes.annotate(
                f"{level_of(point):g}",
                (point["throughput"], point["latency"]["p50"]),
                xytext=(5, -11),
                textcoords="offset points",
                fontsize=8,
                color=drawn.get_color(),
            )
    axes.set(xlabel="images a second", ylabel="latency in ms: p50 (full), p99 (dashed)", xlim=(0, None), ylim=(0, None))
    axes.legend(frameon=False, title="number: concurrency", title_fontsize=8)


def _throughput(axes: Any, points: Sequence[Record]) -> None:
    for name, line in _series(points).items():
        levels = [level_of(point) for point in line]
        (drawn,) = axes.plot(levels, [point["throughput"] for point in line], "o-", label=name)
        unstable = [point for point in line if not point["stable"]]
        axes.plot(
            [level_of(point) for point in unstable],
            [point["throughput"] for point in unstable],
            "o",
            markersize=11,
            markerfacecolor="none",
            color=drawn.get_color(),
        )
    levels = sorted({level_of(point) for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(levels, [f"{level:g}" for level in levels])
    axes.minorticks_off()
    label = "requests a second" if points[0]["load"]["rate"] else "concurrency"
    axes.set(xlabel=f"{label} (circled: unstable)", ylabel="images a second", ylim=(0, None))
    axes.legend(frameon=False)


def _phases(axes: Any, points: Sequence[Record]) -> None:
    lines = [point for line in _series(points).values() for point in line]
    names = [f"{series_of(point)}, {level_of(point):g}" for point in lines]
    left = [0.0] * len(lines)
    for phase in lines[0]["phases"]:
        widths = [point["phases"][phase] for point in lines]
        axes.barh(names, widths, left=left, label=phase, height=0.7)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.figure.set_size_inches(7.2, max(3.0, 0.3 * len(lines) + 1.4))
    axes.set(xlabel="ms of one request, on average")
    axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.4, 1.0), fontsize=8)
