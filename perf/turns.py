"""Measures several things in turns, and computes the ratios of their values.

Each thing that is measured, for example a served model, is called a contestant. In every round,
each contestant takes one turn. The speed of a machine changes with time. Two values of the same
round are measured within seconds of each other, so that their ratio contains much less of this
change than the ratio of two means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Turn = Callable[[], float]  # takes one turn and returns the measured value, e.g. images per second
_CONFIDENCE = 0.99


@dataclass(frozen=True)
class Ratio:
    """The value of a contestant, divided by that of the first contestant.

    Attributes:
        value: The geometric mean of the ratios of all rounds.
        low: The lower end of the 99 % confidence interval of `value`.
        high: The upper end of this interval.
    """

    value: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Whether the interval excludes 1."""
        return not self.low <= 1 <= self.high


@dataclass(frozen=True)
class Comparison:
    """The measured values of contestants that took turns.

    Attributes:
        turns: The values of every round, by contestant. Ratios are relative to the first one.
    """

    turns: Mapping[str, Sequence[float]]

    @property
    def base(self) -> str:
        """The name of the first contestant."""
        return next(iter(self.turns))

    def ratio(self, name: str) -> Ratio:
        """The ratio of a contestant to the first one, from the two values of each round."""
        return ratio_of(self.turns[name], self.turns[self.base])

    @property
    def ratios(self) -> dict[str, Ratio]:
        """The ratio of every other contestant to the first."""
        return {name: self.ratio(name) for name in self.turns if name != self.base}


def ratio_of(turns: Sequence[float], base: Sequence[float]) -> Ratio:
    """The ratio of paired values. The interval is a t-interval of the logarithms of the ratios.

    Raises:
        ValueError: There are fewer than two pairs.
    """
    logarithms = np.log(np.asarray(turns) / np.asarray(base))
    if len(logarithms) < 2:
        raise ValueError("an interval needs two rounds at least")
    middle = logarithms.mean()
    half = stats.t.ppf((1 + _CONFIDENCE) / 2, len(logarithms) - 1) * stats.sem(logarithms)
    return Ratio(*(float(np.exp(value)) for value in (middle, middle - half, middle + half)))


def take_turns(
    contestants: Mapping[str, Turn],
    rounds: int,
    *,
    warmup_rounds: int = 0,
    after_turn: Callable[[], object] = lambda: None,
) -> Comparison:
    """Give every contestant one turn in every round. The order is reversed in every second round.

    Args:
        contestants: The turns by name. Ratios are relative to the first contestant.
        rounds: The number of measured turns of each contestant.
        warmup_rounds: The number of rounds before the measured ones. Their values are not kept.
        after_turn: A function that is called after every measured turn.
    """
    turns: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for index in range(-warmup_rounds, rounds):
        for name in names if index % 2 == 0 else names[::-1]:
            value = contestants[name]()
            if index >= 0:
                turns[name].append(value)
                after_turn()
    return Comparison(turns)
