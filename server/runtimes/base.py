"""What every runtime offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.errors import ArtifactError


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an artifact.

    Attributes:
        dims: Its shape without the batch axis; -1 for an axis of any length.
    """

    name: str
    dims: tuple[int, ...]


class Runtime(ABC):
    """A loaded artifact with one float32 input and one float32 output, both with a batch axis first.

    Args:
        artifact: The file.
        parameters: The `parameters` of the model's config.pbtxt.
        device: `cpu`, or `cuda:N`.
    """

    input: TensorSpec
    output: TensorSpec

    @abstractmethod
    def __init__(self, artifact: Path, parameters: Mapping[str, str], device: str) -> None: ...

    @abstractmethod
    def run(self, batch: np.ndarray) -> np.ndarray:
        """Map float32 [N, *input.dims] to float32 [N, *output.dims]."""


def thread_count(parameters: Mapping[str, str], name: str) -> int:
    """A thread count from a model's parameters; 0 leaves the choice open.

    Raises:
        ArtifactError: It is not a whole number.
    """
    try:
        return max(int(parameters.get(name) or 0), 0)
    except ValueError:
        raise ArtifactError(f"parameter {name} must be a whole number, not {parameters[name]!r}") from None


def flag(parameters: Mapping[str, str], name: str, default: bool) -> bool:
    """A switch from a model's parameters, `true` or `false` (or `1` or `0`) as the C++ backends read it.

    Raises:
        ArtifactError: It is neither.
    """
    text = parameters.get(name, str(default)).lower()
    if text not in ("true", "false", "1", "0"):
        raise ArtifactError(f"parameter {name} must be true or false, not {parameters[name]!r}")
    return text in ("true", "1")
