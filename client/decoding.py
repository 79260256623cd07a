"""From the server's answer to labelled predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class OutputKind(StrEnum):
    """What the served model's output holds, as its parameter `output.kind` says."""

    PROBABILITIES = "probabilities"
    LOGITS = "logits"


OUTPUT_KIND_PARAMETER = "output.kind"
# Only there where the weights were made from a seed, so that the labels mean nothing.
WEIGHTS_PARAMETER, SEEDED = "weights", "seeded"


@dataclass(frozen=True)
class Prediction:
    """One class and how likely the network holds it.

    Attributes:
        index: Position of the class in the output, from 0.
        label: Its name, or `class <index>` where the model has no labels.
        probability: In [0, 1], with the six decimals of Triton's classification extension.
    """

    index: int
    label: str
    probability: float


def decode(entries: Sequence[bytes], kind: OutputKind, top: int) -> list[Prediction]:
    """Read one sample's answer of Triton's classification extension.

    Args:
        entries: `value:index` or `value:index:label`, highest value first. For logits it must hold every class, because the softmax
            runs over all of them here.
        kind: What the values are.
        top: How many predictions to return.
    """
    parts = [entry.decode().split(":", 2) for entry in entries]
    values = [float(part[0]) for part in parts]
    if kind is OutputKind.LOGITS:
        exponentials = [math.exp(value - values[0]) for value in values]
        total = math.fsum(exponentials)
        values = [value / total for value in exponentials]
    return [
        Prediction(int(part[1]), part[2] if len(part) == 3 else f"class {part[1]}", value)
        for part, value in zip(parts[:top], values[:top], strict=True)
    ]
