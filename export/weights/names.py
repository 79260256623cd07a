"""Names of tensors: from those of wrappers and of NVIDIA's older code to this network's own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from seresnext101_triton.export.errors import CheckpointError
from seresnext101_triton.export.weights.choice import is_averaged
from seresnext101_triton.export.weights.stored import Stored
from seresnext101_triton.export.weights.wording import brief, listed

# DataParallel and AveragedModel; torch.compile; Lightning and others who keep the network as a
# member.
_WRAPPERS = ("module", "_orig_mod", "model", "net", "network", "backbone", "online_model")
# Wrappers of parts of a network: torch.compile, FSDP, activation checkpointing.
_INNER = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_COUNT = "n_averaged"
_OLD_STAGE = re.compile(r"layer([1-9]\d{0,2})\.")
_GATE_WEIGHT = (".squeeze.squeeze.weight", ".squeeze.expand.weight")


def normalise(state: Mapping[str, Stored], name: str) -> dict[str, Stored]:
    """A state dict in this network's names and shapes.

    The names of wrappers are removed, `layer1.` becomes `layers.0.`, and the matrices of gates
    become 1x1 convolutions.

    A wrapper's name is stripped only where all tensors have it.

    Raises:
        CheckpointError: Two tensors are one and the same by their names.
    """
    entries = {key: value for key, value in state.items() if key.rpartition(".")[2] != _COUNT}
    names = {key: _INNER.sub("", key) for key in entries}
    while prefix := _common_wrapper(names.values()):
        names = {key: name.removeprefix(prefix) for key, name in names.items()}
    _refuse_twins({key: _current_name(_unwrapped(name)) for key, name in names.items()}, name)
    result = {}
    for key, tensor in entries.items():
        own = _current_name(names[key])
        gate = own.endswith(_GATE_WEIGHT) and len(tensor.shape) == 2
        result[own] = tensor.reshaped(*tensor.shape, 1, 1) if gate else tensor
    return result


def _common_wrapper(names: Iterable[str]) -> str:
    """The wrapper's prefix that all names have; empty where there is none."""
    firsts = {name.partition(".")[0] if "." in name else "" for name in names}
    first = firsts.pop() if len(firsts) == 1 else ""
    return f"{first}." if first in _WRAPPERS or is_averaged(first) else ""


def _unwrapped(name: str) -> str:
    while (first := name.partition(".")[0]) in _WRAPPERS and "." in name:
        name = name[len(first) + 1 :]
    return name


def _current_name(name: str) -> str:
    match = _OLD_STAGE.match(name)
    return f"layers.{int(match[1]) - 1}.{name[match.end() :]}" if match else name


def _refuse_twins(names: Mapping[str, str], name: str) -> None:
    first: dict[str, str] = {}
    twins = [
        f"{brief(first[own])} and {brief(key)}"
        for key, own in names.items()
        if first.setdefault(own, key) != key
    ]
    if twins:
        raise CheckpointError(
            f"{name} has two tensors for one place in the network: {listed(twins, most=5)}. Save "
            "one of them only"
        )
