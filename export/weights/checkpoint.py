"""A network from a checkpoint: all tensors are renamed and checked before one of them is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seresnext101_triton.export.errors import CheckpointError
from seresnext101_triton.export.network import Architecture, SEResNeXt
from seresnext101_triton.export.weights.choice import choose
from seresnext101_triton.export.weights.names import normalise
from seresnext101_triton.export.weights.opening import open_file, opened, tensor_of
from seresnext101_triton.export.weights.provenance import Provenance
from seresnext101_triton.export.weights.stored import FLOATS, Stored
from seresnext101_triton.export.weights.wording import compact

if TYPE_CHECKING:
    from seresnext101_triton.export.reporting import Reporter

_COUNTER = "num_batches_tracked"  # of BatchNorm: not used in inference, and not in every file


@dataclass(frozen=True)
class FileSource:
    """A checkpoint file: `.pth`, `.pth.tar`, `.pt` or `.safetensors`, or a zip with one of them.

    Attributes:
        kind: What the manifest calls it; a download passes its own.
        location: Where it was downloaded from; the path where it was not.
        ema: Take averaged weights.
    """

    path: Path
    kind: str = "file"
    location: str = ""
    ema: bool = False

    def identity(self, reporter: Reporter) -> str:
        return f"{self._sha256}:ema" if self.ema else self._sha256

    @cached_property
    def _sha256(self) -> str:
        try:
            with open_file(self.path) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            reason = error.strerror or error
            raise CheckpointError(f"{self.path} cannot be read: {reason}") from None

    def load(self, architecture: Architecture, reporter: Reporter) -> tuple[SEResNeXt, Provenance]:
        with reporter.step(f"reading {self.path}"), opened(self.path) as (content, member):
            choice = choose(content, str(self.path), ema=self.ema)
            network = build(choice.tensors, architecture, str(self.path))
        if choice.note:
            reporter.note(f"  {choice.note}")
        taken = ": ".join(filter(None, (member, choice.label)))
        return network, Provenance(
            self.kind, self.location or str(self.path.resolve()), self._sha256, taken=taken
        )


def build(state: Mapping[str, Stored], architecture: Architecture, name: str) -> SEResNeXt:
    """A network with these tensors, in eval mode, float32, with as many classes as they have.

    Args:
        state: A state dict in NVIDIA's old or new names.
        architecture: Every number but the class count.
        name: What to call it in errors.

    Raises:
        CheckpointError: It does not fit; the message lists all that is missing, unexpected,
            mis-shaped, of a wrong type or not finite.
    """
    tensors = {
        key: tensor for key, tensor in normalise(state, name).items() if not key.endswith(_COUNTER)
    }
    head = tensors.get("fc.weight")
    if head is not None and not head.problem and len(head.shape) == 2 and all(head.shape):
        architecture = replace(architecture, classes=head.shape[0])
    with torch.device("meta"):
        network = SEResNeXt(architecture)
    every = network.state_dict()
    expected = {
        key: tuple(tensor.shape) for key, tensor in every.items() if not key.endswith(_COUNTER)
    }
    title = f"{name} does not fit this network, of {len(every)} tensors"
    _check(tensors, expected, title)
    # A copy, because a safetensors file's own tensors are the file itself, which someone may
    # change.
    values = {
        key: tensor_of(tensors[key], f"{name}: {key}").to(torch.float32, copy=True).contiguous()
        for key in expected
    }
    if broken := compact(
        key for key, tensor in values.items() if not bool(torch.isfinite(tensor).all())
    ):
        raise CheckpointError(
            "\n".join(
                [
                    f"{title}: values that are not finite",
                    *(f"  not finite  {line}" for line in broken),
                ]
            )
        )
    for key in every:
        values.setdefault(key, torch.zeros((), dtype=torch.long))
    network.load_state_dict(values, assign=True)
    return network.eval().requires_grad_(False)


def sha256_of_tensors(state: Mapping[str, Tensor]) -> str:
    """One digest of all names, shapes and values, in hexadecimal."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].contiguous()
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check(
    tensors: Mapping[str, Stored], expected: Mapping[str, tuple[int, ...]], title: str
) -> None:
    """Refuse what does not fit, before a value of it is read."""
    shapes: dict[str, list[str]] = {}
    types: dict[str, list[str]] = {}
    for key in expected.keys() & tensors.keys():
        tensor = tensors[key]
        if tensor.problem or tensor.dtype not in FLOATS:
            types.setdefault(
                f"{tensor.dtype}{': ' if tensor.problem else ''}{tensor.problem}", []
            ).append(key)
        elif tensor.shape != expected[key]:
            shapes.setdefault(f"{list(tensor.shape)}, expected {list(expected[key])}", []).append(
                key
            )
    missing, unexpected = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    problems = {
        "missing": compact(missing),
        "unexpected": compact(unexpected),
        "mis-shaped": [
            f"{key} is {difference}"
            for difference, keys in sorted(shapes.items())
            for key in compact(keys)
        ],
        "wrong type": [
            f"{key} is {kind}" for kind, keys in sorted(types.items()) for key in compact(keys)
        ],
    }
    if any(problems.values()):
        counts = {
            "missing": len(missing),
            "unexpected": len(unexpected),
            "mis-shaped": sum(map(len, shapes.values())),
            "of a wrong type": sum(map(len, types.values())),
        }
        lines = [f"  {what:<11} {line}" for what, lines in problems.items() for line in lines]
        if types:
            lines.append(
                f"  The way out: save plain float tensors ({', '.join(FLOATS)}), as "
                "model.float().state_dict() of the network gives"
            )
        summary = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        raise CheckpointError("\n".join([f"{title}: {summary}", *lines]))
