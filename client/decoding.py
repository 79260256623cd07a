"""Reads the server's answer as labelled predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seresnext101_triton.client.contract import OUTPUT_KIND_PARAMETER, OutputKind
from seresnext101_triton.client.errors import AnswerError, ContractError
from seresnext101_triton.client.text import printable, shortened

# How far a probability may lie outside [0, 1]. A softmax in half precision is out by less.
_TOLERANCE = 0.01


@dataclass(frozen=True)
class Prediction:
    """One class and its probability.

    Attributes:
        index: Position of the class in the model's output, from 0.
        label: Name of the class, or `class <index>` if the model has no labels. Control characters
            are written as escapes, and bytes that are not UTF-8 as U+FFFD.
        probability: In [0, 1], with the six decimals of Triton's classification extension.
    """

    index: int
    label: str
    probability: float


def decode(entries: Sequence[bytes], kind: OutputKind, top: int) -> list[Prediction]:
    """Read one image's answer of Triton's classification extension.

    Args:
        entries: `value:index` or `value:index:label`, highest value first. For logits it must hold
            every class, because the softmax is computed here over all of them.
        kind: What the values are.
        top: How many predictions to return.

    Raises:
        AnswerError: A value is not finite, or is not a probability although it should be one.
        ContractError: An entry has another form, or there is no entry.
    """
    rows = [_read(entry) for entry in entries]
    values = [value for value, _, _ in rows]
    if not values:
        raise ContractError("the model's answer for an image names no class")
    if (wrong := next((value for value in values if not math.isfinite(value)), None)) is not None:
        raise AnswerError(
            f"the model answers {wrong} for a class: its arithmetic overflows on this image, or "
            "its weights are broken"
        )
    if kind is OutputKind.LOGITS:
        probabilities = _softmax(values)
    else:
        probabilities = [_probability(value) for value in values]
    return [
        Prediction(index, label, probability)
        for (_, index, label), probability in zip(rows[:top], probabilities[:top], strict=True)
    ]


def _read(entry: bytes) -> tuple[float, int, str]:
    try:
        value, index, *label = entry.split(b":", 2)
        if not index.isdigit():
            raise ValueError(f"{index!r} is not the index of a class")
        return float(value), int(index), _label(label[0]) if label else f"class {int(index)}"
    except (ValueError, AttributeError, TypeError) as error:
        raise ContractError(
            f"the model's answer has the entry {shortened(repr(entry))}, which is not VALUE:INDEX "
            "or VALUE:INDEX:LABEL"
        ) from error


def _label(label: bytes) -> str:
    """A label as Triton sends it: a line of labels.txt.

    A byte order mark and a carriage return, which other systems write, are removed.
    """
    return printable(label.decode(errors="replace").removeprefix("\ufeff").removesuffix("\r"))


def _softmax(values: Sequence[float]) -> list[float]:
    largest = max(values)  # subtracted, so that no exponential is above 1
    exponentials = [math.exp(value - largest) for value in values]
    total = math.fsum(exponentials)
    return [value / total for value in exponentials]


def _probability(value: float) -> float:
    if not -_TOLERANCE <= value <= 1 + _TOLERANCE:
        raise AnswerError(
            f"the model answers {value:g} and calls it a probability: its parameter "
            f"{OUTPUT_KIND_PARAMETER!r} may be wrong"
        )
    return min(max(value, 0.0), 1.0)
