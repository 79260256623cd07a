"""A tensor as a file describes it: everything is checked before a byte of it is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

MAX_DIMENSIONS = 64  # PyTorch's own limit
FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint file.

    Attributes:
        dtype: PyTorch's name, for example `float32`; for tensors that are more than values in
            memory, their kind: `sparse`, `quantised`.
        shape: Its sizes; empty for a scalar and for a kind that cannot be read.
        problem: Why it cannot be read; empty where it can.
    """

    dtype: str
    shape: tuple[int, ...] = ()
    problem: str = ""
    _read: Callable[[], Tensor] | None = field(default=None, compare=False, repr=False)

    def read(self) -> Tensor:
        """Its values, in their own dtype.

        Raises:
            ValueError: It cannot be read.
        """
        if self.problem or self._read is None:
            raise ValueError(self.problem)
        return self._read().reshape(self.shape)

    def reshaped(self, *shape: int) -> Stored:
        """The same values in another shape."""
        return replace(self, shape=shape)


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """The stored bytes behind one or several tensors.

    Attributes:
        dtype: PyTorch's name of the element type.
        elements: How many there are.
        itemsize: Bytes of an element.
        read: Gives the bytes.
    """

    dtype: str
    elements: int
    itemsize: int
    read: Callable[[], bytearray]


def strided(storage: Storage, offset: int, shape: Sequence[int], stride: Sequence[int]) -> Stored:
    """A strided view of stored bytes, as PyTorch's files describe tensors.

    Args:
        storage: The bytes.
        offset: Of the first element, in elements.
        shape: Its sizes.
        stride: Its strides, in elements.

    Raises:
        ValueError: The numbers describe no tensor.
    """
    dtype, stored, itemsize = storage.dtype, storage.elements, storage.itemsize
    numbers = (offset, *shape, *stride)
    if (
        len(shape) != len(stride)
        or len(shape) > MAX_DIMENSIONS
        or any(type(n) is not int or not 0 <= n < 1 << 62 for n in numbers)
    ):
        raise ValueError("a tensor's sizes are no sizes")
    count = math.prod(shape)
    steps = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    last = offset + steps if count else offset
    if count > stored or (count and last >= stored):
        claimed, held = max(count, last + 1) * itemsize, stored * itemsize
        return Stored(
            dtype,
            tuple(shape),
            f"claims {claimed} bytes and {held} are stored: save tensor.clone(), not an expanded "
            "view",
        )

    def values() -> Tensor:
        if not count:
            return torch.empty(tuple(shape), dtype=getattr(torch, dtype))
        return torch.frombuffer(storage.read(), dtype=getattr(torch, dtype)).as_strided(
            tuple(shape), tuple(stride), offset
        )

    return Stored(dtype, tuple(shape), "", values)
