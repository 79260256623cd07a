"""Checkpoint files of every kind: PyTorch's two formats, safetensors, and a zip with one of them.

No code in them is run.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from seresnext101_triton.export.errors import CheckpointError
from seresnext101_triton.export.weights import kinds
from seresnext101_triton.export.weights.archive import Archive
from seresnext101_triton.export.weights.pickled import CodeError, Reader
from seresnext101_triton.export.weights.stored import Stored
from seresnext101_triton.export.weights.wording import brief, listed

_MAGIC = 0x1950A86A20F9469CFC6C  # of PyTorch's format before 1.6
_PROTOCOL = 1001
_KEPT_STORAGES = 2  # a flattened network has all its tensors in one
_SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


@contextmanager
def opened(path: Path, *, label: str = "", filename: str = "") -> Iterator[tuple[Any, str]]:
    """Open a checkpoint file. Its tensors can be read only while it is open.

    Args:
        path: The file.
        label: What to call it in errors, where that is not its path.
        filename: What it will be called, where `path` is temporary.

    Yields:
        What is in it, with tensors as `Stored`, and the name of its member of the zip around it;
        that name is empty where there is no zip.

    Raises:
        CheckpointError: It is missing, damaged, truncated, no checkpoint, or a pickle that wants to
            run code.
    """
    label = label or str(path)
    with open_file(path, label) as file:
        first = file.read(kinds.FIRST_BYTES)
        if kinds.is_zip(first):
            archive = Archive(file, label)
            if archive.root is None:
                with archive.single() as (member, copy), open_file(copy, label) as inner:
                    yield _content(inner, copy, f"{brief(member)} in {label}"), brief(member)
                return
        yield _content(file, Path(filename or path), label), ""


def open_file(path: Path, label: str = "") -> BufferedReader:
    """A regular file, to be read.

    Args:
        path: The file.
        label: What to call it in errors, where that is not its path.

    Raises:
        CheckpointError: It is missing, empty, unreadable, or no regular file.
    """
    label = label or str(path)
    try:
        # Without O_NONBLOCK, opening a FIFO waits for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise CheckpointError(
            f"{label} does not exist. "
            "`weights` takes ngc, hub, seeded, a URL or the path of a checkpoint"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{label} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    facts = os.fstat(descriptor)
    if stat.S_ISDIR(facts.st_mode):
        reason = f"is a folder: name the checkpoint file in it{_candidates(path)}"
    elif not stat.S_ISREG(facts.st_mode):
        reason = "is no regular file: copy what it gives into one"
    elif facts.st_size == 0:
        reason = "is empty (0 bytes)"
    else:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise CheckpointError(f"{label} {reason}")


def _candidates(folder: Path) -> str:
    try:
        names = sorted(path.name for path in folder.iterdir() if kinds.checkpoint_name(path.name))
    except OSError:
        return ""
    return f", for example {listed(names, most=3)}" if names else ""


def _content(file: IO[bytes], named: Path, name: str) -> Any:
    file.seek(0)
    first = file.read(kinds.FIRST_BYTES)
    if what := kinds.foreign(first):
        raise CheckpointError(f"{name} {what}")
    suffix = named.suffix.lower()
    if kinds.is_safetensors(first):
        if suffix != ".safetensors" and kinds.checkpoint_name(named.name):
            raise CheckpointError(
                f"{name} is a safetensors file: rename it to {brief(named.stem)}.safetensors"
            )
        return _safetensors(file, name)
    if suffix == ".safetensors" and (kinds.is_zip(first) or kinds.is_pickle(first)):
        raise CheckpointError(
            f"{name} is a PyTorch file, not a safetensors file: "
            f"rename it to {brief(named.stem)}.pth"
        )
    if suffix == ".safetensors":
        raise CheckpointError(f"{name} is damaged, truncated or no safetensors file")
    try:
        return Archive(file, name).content() if kinds.is_zip(first) else _legacy(file)
    except CodeError as error:
        raise CheckpointError(
            f"{name} is refused: it is a pickle that would run code ({brief(str(error))}) "
            "when loaded. "
            "Save only the state dict: torch.save(model.state_dict(), path)"
        ) from None
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001  (a damaged pickle can raise any type)
        reason = f": {brief(str(error))}" if isinstance(error, ValueError) and str(error) else ""
        raise CheckpointError(f"{name} is damaged, truncated or no checkpoint{reason}") from None


def _safetensors(file: IO[bytes], name: str) -> dict[str, Stored]:
    from safetensors import SafetensorError, safe_open

    try:
        content = safe_open(f"/proc/self/fd/{file.fileno()}", "pt")
        keys = content.keys()  # which is no dict
        slices = {key: content.get_slice(key) for key in keys}
        return {
            key: Stored(
                _SAFETENSORS_DTYPES.get(part.get_dtype(), part.get_dtype()),
                tuple(part.get_shape()),
                "",
                partial(content.get_tensor, key),
            )
            for key, part in slices.items()
        }
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{name} is damaged, truncated or no safetensors file: {brief(str(error))}"
        ) from None


def _legacy(file: IO[bytes]) -> Any:
    """PyTorch's format before 1.6: five pickles, and the bytes of every storage behind its length.

    Raises:
        ValueError: It is not that.
    """
    file.seek(0)
    storages = _LegacyStorages(file)

    def load() -> Any:
        return Reader(file, storages.reader).load()

    if load() != _MAGIC:
        raise ValueError("it is a pickle that torch.save did not write")
    if load() != _PROTOCOL:
        raise ValueError("its version is unknown")
    system = load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("it was written on a big-endian machine")
    content = load()
    storages.locate(load())
    return content


class _LegacyStorages:
    """The storages at the end of a file, which its pickles name before they come."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._length = os.fstat(file.fileno()).st_size
        self._places: dict[Any, int] = {}
        self._wanted: dict[Any, int] = {}
        self._read = lru_cache(_KEPT_STORAGES)(self._bytes)

    def reader(self, key: Any, count: int) -> Callable[[], bytearray]:
        """A function that reads the `count` bytes of a storage, once all have been located."""
        if count > self._length or self._wanted.setdefault(key, count) != count:
            raise ValueError(f"a tensor claims {count} bytes, and the file has {self._length}")
        return partial(self._read, key, count)

    def locate(self, keys: Iterable[Any]) -> None:
        """Find where each storage begins, in the order in which they lie in the file."""
        for key in keys:
            elements = int.from_bytes(self._file.read(8), "little", signed=True)
            count = self._wanted.pop(key)
            self._places[key] = self._file.tell()
            if elements < 0 or self._file.tell() + count > self._length:
                raise ValueError("it ends early")
            self._file.seek(count, os.SEEK_CUR)
        if self._wanted:
            raise ValueError("it ends early")

    def _bytes(self, key: Any, count: int) -> bytearray:
        self._file.seek(self._places[key])
        data = bytearray(count)
        if self._file.readinto(data) != count:  # type: ignore[attr-defined]
            raise ValueError("it ends early")
        return data


def tensor_of(stored: Stored, name: str) -> Tensor:
    """The values of a tensor.

    Raises:
        CheckpointError: They cannot be read.
    """
    try:
        return stored.read()
    except Exception as error:  # noqa: BLE001  (the file has changed, or the memory is full)
        raise CheckpointError(f"{name} cannot be read: {brief(str(error))}") from None
