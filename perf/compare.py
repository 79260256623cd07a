"""Two or more ways to answer, by turns, so that a drifting machine can favour none: ratios with confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from perf import results
from perf.errors import PerfError
from perf.load import Load

Turn = Callable[[], float]  # images a second, of one turn
_CONFIDENCE = 0.99


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the first a contestant is.

    Attributes:
        value: The geometric mean of the rounds' ratios.
        low: Lower end of its 99 % interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Whether the interval leaves 1 out."""
        return not self.low <= 1 <= self.high


@dataclass(frozen=True)
class Comparison:
    """Images a second of every contestant in every round.

    Attributes:
        turns: By contestant; the first is the one that the others are held against.
    """

    turns: Mapping[str, Sequence[float]]

    def ratio(self, name: str) -> Ratio:
        """Of a contestant to the first, from the rounds' pairs (a t-interval of the logarithms)."""
        first = next(iter(self.turns.values()))
        return ratio_of(self.turns[name], first)


def ratio_of(turns: Sequence[float], base: Sequence[float]) -> Ratio:
    """The ratio of paired turns.

    Raises:
        ValueError: There are fewer than two pairs.
    """
    logarithms = np.log(np.asarray(turns) / np.asarray(base))
    if len(logarithms) < 2:
        raise ValueError("an interval needs two rounds at least")
    middle = logarithms.mean()
    half = stats.t.ppf((1 + _CONFIDENCE) / 2, len(logarithms) - 1) * stats.sem(logarithms)
    return Ratio(*(float(np.exp(value)) for value in (middle, middle - half, middle + half)))


def compare(contestants: Mapping[str, Turn], rounds: int, advance: Callable[[], None] = lambda: None) -> Comparison:
    """Let every contestant have its turn in every round; who goes first changes from round to round.

    Args:
        contestants: By name; the first is the one that the others are held against.
        rounds: How many turns each has, two at least.
        advance: Is called after every turn.
    """
    turns: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for index in range(rounds):
        for name in names if index % 2 == 0 else names[::-1]:
            turns[name].append(contestants[name]())
            advance()
    return Comparison(turns)


def saved(paths: Sequence[Path]) -> tuple[list[str], Comparison]:
    """What two or more sweeps have measured of the same loads, each load as one round.

    They were not measured by turns, so whatever the machine did meanwhile is in the ratio too.

    Returns:
        The loads that all of the files hold, and their images a second by file.

    Raises:
        PerfError: They are of several machines, or share fewer than two loads.
        ResultsError: One cannot be read.
    """
    machines, measured = set(), {}
    for path in paths:
        points = [record for record in results.read(path) if record["kind"] == "point"]
        machines |= {repr(point["machine"]) for point in points}
        measured[str(path)] = {str(Load(**point["load"])): float(point["throughput"]) for point in points}  # the last of each load counts
    if len(machines) > 1:
        raise PerfError(f"the saved runs are of {len(machines)} machines, whose ratio would say nothing about what was measured")
    common = [load for load in next(iter(measured.values())) if all(load in loads for loads in measured.values())]
    if len(common) < 2:
        raise PerfError(f"{', '.join(measured)} share {len(common)} loads, and an interval needs two: sweep the same loads into each")
    return common, Comparison({path: [loads[load] for load in common] for path, loads in measured.items()})
