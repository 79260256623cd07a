"""Plots of a sweep, as SVG and PNG.

They show latency against throughput, throughput against the load, and the phases of a request.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure

from seresnext101_triton.perf.records import Point

# Okabe and Ito's colors, which color-blind people can tell apart.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777777")
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
def plot(path: Path) -> Iterator[Any]:
    """Axes to draw on, in the style of all plots.

    Args:
        path: The SVG file to write. A PNG file is written beside it.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        yield figure.subplots()
        figure.savefig(path, metadata={"Date": None})
        figure.savefig(path.with_suffix(".png"), dpi=150)


def draw(points: Sequence[Point], folder: Path) -> dict[str, Path]:
    """Draw all plots of a sweep.

    Args:
        points: The measured points; one at least.
        folder: The folder to write to.

    Returns:
        The SVG file of each plot, by its title. A PNG file is beside each.
    """
    plots: dict[str, Callable[[Any, Sequence[Point]], None]] = {
        "latency against throughput": _latency,
        "throughput against load": _throughput,
        "where the time goes": _phases,
    }
    drawn = {}
    for title, draw_plot in plots.items():
        drawn[title] = folder / f"{title.replace(' ', '-')}.svg"
        with plot(drawn[title]) as axes:
            draw_plot(axes, points)
    return drawn


def _series(points: Sequence[Point]) -> dict[str, list[Point]]:
    series = defaultdict(list)
    for point in sorted(points, key=lambda point: point.load.level):
        series[point.load.series].append(point)
    return series


def _level(points: Sequence[Point]) -> str:
    """What the levels of loads are."""
    kinds = {True: "requests per second", False: "concurrency"}
    return " or ".join(dict.fromkeys(kinds[bool(point.load.rate)] for point in points))


def _latency(axes: Any, points: Sequence[Point]) -> None:
    for name, line in _series(points).items():
        throughput = [point.throughput for point in line]
        p50, p99 = ([point.latency[each] for point in line] for each in ("p50", "p99"))
        (drawn,) = axes.plot(throughput, p50, "o-", label=name)
        color = drawn.get_color()
        axes.plot(throughput, p99, "o--", color=color, alpha=0.6, markersize=4)
        for point in line:
            axes.annotate(
                f"{point.load.level:g}",
                (point.throughput, point.latency["p50"]),
                xytext=(5, -11),
                textcoords="offset points",
                fontsize=8,
                color=color,
            )
    axes.set(xlabel="images per second", xlim=(0, None), ylim=(0, None))
    axes.set_ylabel("latency in ms: p50 (full), p99 (dashed)")
    axes.legend(frameon=False, title=f"number: {_level(points)}", title_fontsize=8)


def _throughput(axes: Any, points: Sequence[Point]) -> None:
    for name, line in _series(points).items():
        levels = [point.load.level for point in line]
        (drawn,) = axes.plot(levels, [point.throughput for point in line], "o-", label=name)
        circle = {"markersize": 11, "markerfacecolor": "none", "color": drawn.get_color()}
        for point in line:
            if not point.stable:
                axes.plot(point.load.level, point.throughput, "o", **circle)
    levels = sorted({point.load.level for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(levels, [f"{level:g}" for level in levels])
    axes.minorticks_off()
    axes.set(
        xlabel=f"{_level(points)} (circled: unstable)", ylabel="images per second", ylim=(0, None)
    )
    axes.legend(frameon=False)


def _phases(axes: Any, points: Sequence[Point]) -> None:
    lines = [point for line in _series(points).values() for point in line]
    names = [f"{point.load.series}, {point.load.level:g}" for point in lines]
    left = [0.0] * len(lines)
    for phase in lines[0].phases:
        widths = [point.phases[phase] for point in lines]
        axes.barh(names, widths, left=left, label=phase, height=0.7)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.figure.set_size_inches(7.2, max(3.0, 0.3 * len(lines) + 1.4))
    axes.set(xlabel="ms of one request, on average")
    position = {"loc": "lower center", "bbox_to_anchor": (0.4, 1.0)}
    axes.legend(frameon=False, ncols=4, fontsize=8, **position)
