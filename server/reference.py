"""What an artifact answered when it was published, to compare a server's answer with.

The export writes it into the version's manifest.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.server.errors import LoadError
from seresnext101_triton.server.integrity import MANIFEST_FILENAME

# The photograph, one of the client's own.
PHOTOGRAPH = sample_photographs()[0]
_CLASSES = 5


@dataclass(frozen=True)
class Reference:
    """The most likely classes of one photograph, the most likely first.

    Attributes:
        photograph: The name of the photograph.
        classes: The position of each class in the model's output.
        probabilities: The probability of each class.
        allowed: The largest `distance` of a right answer, which may come from another processor.
    """

    photograph: str
    classes: tuple[int, ...]
    probabilities: tuple[float, ...]
    allowed: float

    def distance(self, probabilities: Mapping[int, float]) -> float:
        """The total variation distance of another answer, from 0 to 1.

        It is the largest difference between the probabilities that both answers give to any set of
        classes. All classes that are not in this reference count as one.

        Args:
            probabilities: The other answer, which has all classes. They add up to 1.
        """
        found = np.array([probabilities.get(each, 0.0) for each in self.classes])
        own = np.array(self.probabilities)
        return float(np.abs(found - own).sum() + abs(found.sum() - own.sum())) / 2


def reference_of(probabilities: np.ndarray, allowed: float) -> Reference:
    """The reference that an artifact's answer for the photograph gives.

    Args:
        probabilities: float [classes].
        allowed: As in `Reference`.
    """
    first = np.argsort(-probabilities, kind="stable")[:_CLASSES]
    values = [round(float(probabilities[each]), 6) for each in first]
    return Reference(PHOTOGRAPH.name, tuple(first.tolist()), tuple(values), allowed)


def read_reference(folder: Path) -> Reference | None:
    """The reference of a version; None if its manifest has none for the photograph.

    Args:
        folder: The folder of the version.

    Raises:
        LoadError: It is damaged.
    """
    path = folder / MANIFEST_FILENAME
    try:
        if not path.is_file():  # reading a FIFO would block
            return None
        facts: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8"))["parity"].get(
            "reference"
        )
        if facts is None or facts["photograph"] != PHOTOGRAPH.name:
            return None
        classes = tuple(map(int, facts["classes"]))
        values = tuple(map(float, facts["probabilities"]))
        if len(classes) != len(values):
            raise ValueError("as many classes as probabilities were expected")
        return Reference(PHOTOGRAPH.name, classes, values, float(facts["allowed"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise LoadError(
            f"{path} does not say what the version must answer ({type(error).__name__}): export "
            "the version anew"
        ) from None
