"""Zip archives: PyTorch's own format, and an archive with a checkpoint in it, as NGC gives them.

PyTorch does not check the checksums of its own archives; this module does.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from seresnext101_triton.export.errors import CheckpointError
from seresnext101_triton.export.weights.kinds import checkpoint_name
from seresnext101_triton.export.weights.pickled import MAX_BYTES, Reader
from seresnext101_triton.export.weights.wording import brief, listed

_MOST_MEMBERS = 100_000
# Weights shrink by a tenth when they are compressed; an archive that grows more holds none.
_MOST_INFLATED = 20


class Archive:
    """A zip archive.

    Args:
        file: Where it is.
        name: What to call it in errors.

    Raises:
        CheckpointError: It is damaged, encrypted, or claims more than it can hold.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._name = name
        length = file.seek(0, 2)
        try:
            _check_directory_size(file, length)
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError) as error:
            raise self.damaged(error) from None
        self.members = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}
        if len(self.members) != sum(not info.is_dir() for info in self._zip.infolist()):
            raise self.damaged("two members have one name")
        if any(info.flag_bits & 1 for info in self.members.values()):
            raise CheckpointError(
                f"{name} is encrypted: unpack it with its password, and pass the checkpoint in it"
            )
        if sum(info.compress_size for info in self.members.values()) > length:
            raise self.damaged("its members claim more bytes than it has")

    def damaged(self, reason: object) -> CheckpointError:
        """An error with this reason."""
        return CheckpointError(
            f"{self._name} is damaged, truncated or no checkpoint: {brief(str(reason))}"
        )

    @property
    def root(self) -> str | None:
        """The folder in it with PyTorch's pickle; None where PyTorch has not written it."""
        return next(
            (
                name.removesuffix("data.pkl")
                for name in self.members
                if name.count("/") == 1 and name.endswith("/data.pkl")
            ),
            None,
        )

    def content(self) -> Any:
        """What `torch.save` was given, tensors as `Stored`. All checksums are checked first.

        Raises:
            CheckpointError: It is damaged, compressed, or no checkpoint.
            CodeError: Its pickle names code.
        """
        root = self.root or ""
        if any(name.startswith((f"{root}code/", f"{root}constants.pkl")) for name in self.members):
            raise CheckpointError(
                f"{self._name} is a TorchScript archive, not a checkpoint: "
                "save the model's state dict"
            )
        if any(info.compress_type != zipfile.ZIP_STORED for info in self.members.values()):
            raise CheckpointError(
                f"{self._name} has compressed tensors, which PyTorch does not write: "
                "save it again with torch.save"
            )
        if any(info.file_size != info.compress_size for info in self.members.values()):
            raise self.damaged("a member claims another length than it has")
        if self.members[f"{root}data.pkl"].file_size > MAX_BYTES:
            raise self.damaged(f"its pickle is longer than {MAX_BYTES >> 20} MB")
        self._check_sums()
        if self._read_small(f"{root}byteorder", b"little") != b"little":
            raise CheckpointError(
                f"{self._name} was written on a big-endian machine: "
                "load it there, and save it as safetensors"
            )
        return Reader(
            self._zip.open(f"{root}data.pkl"),
            lambda key, count: self._storage(f"{root}data/{key}", count),
        ).load()

    def _read_small(self, member: str, default: bytes) -> bytes:
        return (
            self._zip.read(member)
            if member in self.members and self.members[member].file_size < MAX_BYTES
            else default
        )

    def _check_sums(self) -> None:
        """PyTorch writes a CRC of every member, unless told not to: then all of them are 0."""
        if any(info.CRC for info in self.members.values()):
            try:
                damaged = self._zip.testzip()
            except (
                zipfile.BadZipFile,
                OSError,
                EOFError,
                ValueError,
                NotImplementedError,
            ) as error:
                raise self.damaged(error) from None
            if damaged:
                raise self.damaged(f"the checksum of {brief(damaged)} is not that of its bytes")
        for info in self.members.values():
            info.CRC = None  # type: ignore[assignment]  # zipfile's way not to check it again

    def _storage(self, member: str, count: int) -> Callable[[], bytearray]:
        if member not in self.members or self.members[member].file_size < count:
            held = self.members[member].file_size if member in self.members else 0
            raise self.damaged(
                f"a tensor claims {count} bytes in {brief(member)}, which has {held}"
            )

        def read() -> bytearray:
            with self._zip.open(member) as file:
                data = bytearray(file.read(count))
            if len(data) < count:
                raise self.damaged(f"{brief(member)} ends early")
            return data

        return read

    @contextmanager
    def single(self) -> Iterator[tuple[str, Path]]:
        """Copy the one checkpoint out of an archive that PyTorch has not written.

        Yields:
            Its name, and the path of a temporary copy.

        Raises:
            CheckpointError: There is none, or more than one.
        """
        found = [
            name
            for name in self.members
            if checkpoint_name(name) and not name.startswith("__MACOSX/")
        ]
        if len(found) != 1:
            if self.members and all(name.endswith(".npy") for name in self.members):
                raise CheckpointError(
                    f"{self._name} is a numpy archive (.npz): save a state dict of torch tensors"
                )
            holds = (
                f"{len(found)} checkpoints: {listed(found)}"
                if found
                else f"no checkpoint: {listed(self.members)}"
            )
            raise CheckpointError(
                f"{self._name} is a zip with {holds}. Unpack it, and pass the checkpoint's path"
            )
        info = self.members[found[0]]
        if info.file_size > _MOST_INFLATED * info.compress_size:
            raise self.damaged(
                f"{brief(found[0])} grows from {info.compress_size} to {info.file_size} bytes, "
                "which no weights do"
            )
        with TemporaryDirectory(prefix="checkpoint-") as folder:
            path = Path(folder) / f"checkpoint{''.join(Path(found[0]).suffixes[-2:])}"
            try:
                with self._zip.open(info) as member, path.open("wb") as copy:
                    shutil.copyfileobj(member, copy, 1 << 20)
            except OSError as error:
                raise CheckpointError(
                    f"cannot unpack {self._name} into {folder}: {error.strerror or error}"
                ) from None
            except Exception as error:  # noqa: BLE001  (zipfile and zlib raise many types)
                raise self.damaged(error) from None
            yield found[0], path


def _check_directory_size(file: IO[bytes], length: int) -> None:
    """Refuse an archive whose list of members alone would fill the memory: zipfile reads it all."""
    file.seek(max(0, length - (1 << 16) - 22))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    size = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    zip64 = tail.rfind(b"PK\x06\x06", 0, max(end, 0))
    if zip64 >= 0:
        size = max(
            size if size != 0xFFFFFFFF else 0,
            int.from_bytes(tail[zip64 + 40 : zip64 + 48], "little"),
        )
    if size > _MOST_MEMBERS * 100:
        raise ValueError(f"its list of members has {size} bytes")
