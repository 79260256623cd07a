"""The interface of every runtime, and readers of the values in a model's parameters."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seresnext101_triton.server.cores import MOST_THREADS
from seresnext101_triton.server.errors import ArtifactError

_INTEGER = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]{1,10}[ \t\n\v\f\r]*")
_TRUE, _FALSE = ("true", "on", "1"), ("false", "off", "0")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an artifact.

    Attributes:
        name: Name of the tensor.
        dims: Shape without the batch axis; -1 for an axis of any length. Empty if the artifact
            does not say it.
        batch: Length of the batch axis; -1 for any length.
        dtype: `float32`, or `uint8` for an input of pixels.
    """

    name: str
    dims: tuple[int, ...]
    batch: int = -1
    dtype: str = "float32"

    @property
    def triton_type(self) -> str:
        """Triton's name of the type in config.pbtxt."""
        return {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}[self.dtype]


class Runtime(ABC):
    """A loaded artifact with one input and one float32 output, the batch axis first.

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
        """Map `input.dtype` [N, *input.dims] to float32 [N, *output.dims]."""


def integer(parameters: Mapping[str, str], name: str, default: int = 0) -> int:
    """A whole number from a model's parameters, as the C++ backends read it (std::stoi).

    The C++ backends take the first digits of `4 threads` or `4.5` and ignore the rest. Here the
    whole text must be a number.

    Raises:
        ArtifactError: It is not a whole number.
    """
    if name not in parameters:
        return default
    if not _INTEGER.fullmatch(parameters[name]):
        raise ArtifactError(f"parameter {name} must be a whole number, not {parameters[name]!r}")
    return int(parameters[name])


def thread_count(parameters: Mapping[str, str], name: str) -> int:
    """A thread count from a model's parameters. 0 leaves the choice to the runtime.

    A negative number and a missing parameter mean 0 too.

    Raises:
        ArtifactError: It is not a whole number, or over `MOST_THREADS`.
    """
    count = integer(parameters, name)
    if count > MOST_THREADS:
        raise ArtifactError(
            f"parameter {name} must be at most {MOST_THREADS}, not {parameters[name]!r}"
        )
    return max(count, 0)


def flag(parameters: Mapping[str, str], name: str, default: bool = False) -> bool:
    """A switch from a model's parameters, as the C++ backends read it.

    It is true, on, 1, false, off or 0, in upper or lower case.

    Source: triton-inference-server/backend, src/backend_common.cc, ParseBoolValue.

    Raises:
        ArtifactError: It is none of these.
    """
    if name not in parameters:
        return default
    text = parameters[name].lower()
    if text not in _TRUE + _FALSE:
        raise ArtifactError(f"parameter {name} must be true or false, not {parameters[name]!r}")
    return text in _TRUE
