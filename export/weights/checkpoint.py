"""Checkpoints from files: read without running code in them, renamed to this network's names, and checked to the last tensor."""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from export.errors import CheckpointError
from export.network import Architecture, SEResNeXt
from export.weights import Provenance

if TYPE_CHECKING:
    from export.reporting import Reporter

_ENVELOPES = ("state_dict", "model", "ema")
_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
_OLD_STAGE = re.compile(r"^layer(\d+)\.")
_GATE_WEIGHT = (".squeeze.squeeze.weight", ".squeeze.expand.weight")
_COUNTER = "num_batches_tracked"
_SHA256_BLOCK = 1 << 20


@dataclass(frozen=True)
class FileSource:
    """A checkpoint file: `.pth`, `.pth.tar`, `.pt` or `.safetensors`.

    Attributes:
        kind: What the manifest calls it; a download passes its own.
        location: Where it was downloaded from; the path where it was not.
    """

    path: Path
    kind: str = "file"
    location: str = ""

    def identity(self, reporter: Reporter) -> str:
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        return sha256_of_file(self.path)

    def load(self, architecture: Architecture, reporter: Reporter) -> tuple[SEResNeXt, Provenance]:
        with reporter.step(f"reading {self.path}"):
            provenance = Provenance(self.kind, self.location or str(self.path.resolve()), self._sha256)
            return build(read(self.path), architecture, str(self.path)), provenance


def read(path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint file. No code in it is run.

    Raises:
        CheckpointError: It is missing, truncated, no checkpoint, or a pickle that wants to run code.
    """
    _require_file(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged, truncated or no safetensors file: {error}") from None
    return _state_dict(_unpickle(path), path)


def build(state: Mapping[str, Tensor], architecture: Architecture, name: str) -> SEResNeXt:
    """A network with these tensors, in eval mode, float32, with as many classes as they have.

    Args:
        state: A state dict in NVIDIA's old or new names.
        architecture: Every number but the class count.
        name: What to call it in errors.

    Raises:
        CheckpointError: It does not fit; the message lists all that is missing, unexpected, mis-shaped or not finite.
    """
    state = normalise(state)
    head = state.get("fc.weight")
    if head is not None and head.ndim == 2 and len(head):
        architecture = replace(architecture, classes=head.shape[0])
    with torch.device("meta"):
        network = SEResNeXt(architecture)
    expected = network.state_dict()
    for key in expected:
        if key.endswith(_COUNTER):  # not used in inference, and not in every file
            state.setdefault(key, torch.zeros((), dtype=torch.long))
    _check(state, expected, name)
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def normalise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in this network's names and shapes: wrappers stripped, `layer1.` as `layers.0.`, gates as 1x1 convolutions."""
    result = {}
    for key, tensor in state.items():
        while key.startswith(_WRAPPERS):
            key = key.partition(".")[2]
        key = _OLD_STAGE.sub(lambda match: f"layers.{int(match[1]) - 1}.", key)
        if key.endswith(_GATE_WEIGHT) and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        result[key] = tensor.float() if tensor.is_floating_point() else tensor
    return result


def sha256_of_file(path: Path) -> str:
    """The file's digest in hexadecimal.

    Raises:
        CheckpointError: It cannot be read.
    """
    _require_file(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_SHA256_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_tensors(state: Mapping[str, Tensor]) -> str:
    """One digest of all names, shapes and values, in hexadecimal."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].contiguous()
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: name the checkpoint file in it")
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist. --weights takes ngc, hub, seeded, a URL or the path of a checkpoint")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes)")


def _unpickle(path: Path) -> Any:
    import numpy as np

    # Training scripts store their best accuracy as a numpy number.
    harmless: list[Any] = [np.core.multiarray.scalar, np.dtype, *{type(np.dtype(kind)) for kind in "fdil"}]  # type: ignore[attr-defined]
    try:
        with torch.serialization.safe_globals(harmless), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice for other callers
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        forbidden = re.search(r"(?:GLOBAL|Unsupported class) (\S+)", str(error))
        code = f" ({forbidden[1]})" if forbidden else ", or is damaged"
        raise CheckpointError(
            f"{path} is refused: it is a pickle that would run code{code} when loaded. "
            "Save only the state dict: torch.save(model.state_dict(), path)"
        ) from None
    except Exception as error:  # a damaged file raises whatever the byte at hand leads to
        if "TorchScript" in str(error):
            raise CheckpointError(f"{path} is a TorchScript archive, not a checkpoint: save the model's state dict") from None
        raise CheckpointError(f"{path} is damaged, truncated or no checkpoint{_reason(error)}") from None


def _reason(error: Exception) -> str:
    """The first sentence of torch's own reason, where it has one."""
    return f": {str(error).splitlines()[0].split('. ')[0]}" if isinstance(error, RuntimeError) and str(error) else ""


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        envelope = next((name for name in _ENVELOPES if isinstance(content.get(name), Mapping)), None)
        if envelope is None:
            break
        content = content[envelope]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds {_describe(content)}, not a state dict")
    if strangers := sorted(str(key) for key, value in content.items() if not isinstance(value, Tensor)):
        raise CheckpointError(
            f"{path} holds no state dict, neither bare nor under {', '.join(_ENVELOPES)}: "
            f"these entries are no tensors: {', '.join(strangers)}"
        )
    return dict(content)


def _describe(content: Any) -> str:
    return "an empty dict" if isinstance(content, Mapping) else f"a {type(content).__name__}"


def _check(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str) -> None:
    shapes: dict[tuple[str, str], list[str]] = {}
    for key in expected.keys() & state.keys():
        if state[key].shape != expected[key].shape:
            pair = (str(list(state[key].shape)), str(list(expected[key].shape)))
            shapes.setdefault(pair, []).append(key)
    problems = {
        "missing": compact(expected.keys() - state.keys()),
        "unexpected": compact(state.keys() - expected.keys()),
        "mis-shaped": [f"{key} is {found}, expected {wanted}" for (found, wanted), keys in sorted(shapes.items()) for key in compact(keys)],
        "not finite": compact(key for key in expected.keys() & state.keys() if not bool(torch.isfinite(state[key]).all())),
    }
    if any(problems.values()):
        counts = {
            "missing": len(expected.keys() - state.keys()),
            "unexpected": len(state.keys() - expected.keys()),
            "mis-shaped": sum(map(len, shapes.values())),
        }
        summary = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "values that are not finite"
        lines = [f"  {what:<11} {line}" for what, lines in problems.items() for line in lines]
        raise CheckpointError("\n".join([f"{name} does not fit this network, of {len(expected)} tensors: {summary}", *lines]))


def compact(keys: Iterable[str]) -> list[str]:
    """Many tensor names in few lines, nothing left out: `layers.0.{0-2}.bn1.{bias,weight}`."""
    rows = [tuple(key.split(".")) for key in keys]
    for position in reversed(range(max(map(len, rows), default=0))):

        def rest(row: tuple[str, ...], position: int = position) -> tuple[tuple[str, ...], tuple[str, ...]]:
            return row[:position], row[position + 1 :]

        long = [row for row in rows if len(row) > position]
        merged = [row for row in rows if len(row) <= position]
        for (before, after), group in groupby(sorted(long, key=rest), key=rest):
            merged.append((*before, _join(row[position] for row in group), *after))
        rows = merged
    return sorted(".".join(row) for row in rows)


def _join(parts: Iterable[str]) -> str:
    names = sorted(set(parts))
    if len(names) == 1:
        return names[0]
    if not all(name.isdigit() for name in names):
        return f"{{{','.join(names)}}}"
    numbers = sorted(map(int, names))
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return "{" + ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs) + "}"
