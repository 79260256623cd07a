"""The model repository: numbered versions, published whole or not at all.

A model's new folder is built beside the repository, on the same file system, with the old versions linked into it; then it changes places
with the old one in a single rename. A server therefore never sees a version without its config, and an export that is killed leaves the
repository as it was. What it leaves beside it, the next export removes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from export.errors import RepositoryError

CONFIG_FILENAME = "config.pbtxt"
MANIFEST_FILENAME = "manifest.json"

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class Repository:
    """A folder of models.

    Args:
        root: The folder; it need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def versions(self, model: str) -> list[int]:
        """The published versions of a model, oldest first."""
        folder = self.root / model
        if not folder.is_dir():
            return []
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit() and path.is_dir())

    def latest(self, model: str) -> Path | None:
        """The folder of a model's newest version."""
        versions = self.versions(model)
        return self.root / model / str(versions[-1]) if versions else None

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the repository against other exports, and clear away what an interrupted one has left beside it.

        Raises:
            RepositoryError: Another export holds it, or it cannot be written.
        """
        created = not self.root.exists()
        with _explained(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RepositoryError(f"{self.root}: another export is writing to it; run again when it has finished") from None
            for leftover in self.root.parent.glob(f"{self._staging_prefix}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield
        finally:
            os.close(lock)
            if created:
                with suppress(OSError):  # it is not empty: something was published
                    self.root.rmdir()

    @contextmanager
    def stage(self, model: str, *, bytes_needed: int = 0) -> Iterator[StagedModel]:
        """A place to build a model's next version in. Without `publish` it is gone afterwards, and nothing has changed.

        Args:
            model: Its name.
            bytes_needed: About how much will be written; refused at once where there is less room.

        Raises:
            RepositoryError: The repository cannot be written, or its disk is full.
        """
        with _explained(self.root):
            # Found before the work, not after it.
            if not os.access(self.root, os.W_OK):
                read_only = os.statvfs(self.root).f_flag & os.ST_RDONLY
                raise OSError(errno.EROFS if read_only else errno.EACCES, "")
            if os.stat(self.root).st_dev != os.stat(self.root.parent).st_dev:
                raise OSError(errno.EXDEV, "")
            free = shutil.disk_usage(self.root.parent).free
            if free < bytes_needed:
                raise RepositoryError(
                    f"{self.root}: about {bytes_needed / 1e6:.0f} MB will be written and {free / 1e6:.0f} MB are free: "
                    "make room, or name another --repository"
                )
        with self.scratch() as staging, _explained(self.root):
            staging.chmod(0o755)  # mkdtemp's 0700 would hide the model from a server that runs as another user
            folder = staging / model
            if (self.root / model).is_dir():
                shutil.copytree(self.root / model, folder, copy_function=link, symlinks=True)
            else:
                folder.mkdir()
            yield StagedModel(self, folder, max(self.versions(model), default=0) + 1)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder on the repository's file system, gone afterwards.

        Raises:
            RepositoryError: It cannot be made.
        """
        with _explained(self.root):
            folder = Path(tempfile.mkdtemp(prefix=self._staging_prefix, dir=self.root.parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def _staging_prefix(self) -> str:
        return f".{self.root.name}.staging-"


@dataclass(frozen=True)
class StagedModel:
    """A model's folder while it is being built.

    Attributes:
        folder: The folder, with all published versions in it.
        version: The number that the next one will have.
    """

    repository: Repository
    folder: Path
    version: int

    def new_version(self) -> Path:
        """Make the next version's folder."""
        path = self.folder / str(self.version)
        path.mkdir()
        return path

    def write(self, filename: str, content: str | None) -> None:
        """Put a file beside the versions; None removes it. The published one, which may be linked, is left untouched."""
        path = self.folder / filename
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content, encoding="utf-8")

    def publish(self) -> None:
        """Give the folder to the repository, in one step and durably."""
        target = self.repository.root / self.folder.name
        with _explained(self.repository.root):
            for path in (self.folder, *self.folder.rglob("*")):
                _sync(path)
            if target.exists():
                _exchange(self.folder, target)
            else:
                os.rename(self.folder, target)
            _sync(self.repository.root)


def _exchange(one: Path, other: Path) -> None:
    """Let two folders change places in one step (renameat2(2)); Python has no function for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return
    if (code := ctypes.get_errno()) not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(code, os.strerror(code), str(other))
    # A file system without it, some network ones: two renames, and a moment between them in which the model is not there.
    aside = one.with_name(f"{one.name}.old")
    os.rename(other, aside)
    os.rename(one, other)


def link(source: str, destination: str) -> None:
    """Give a file a second name, or a copy where the file system has no hard links."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)


def _sync(path: Path) -> None:
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    """Say what a failed write means and what to do."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "the disk is full: make room, or name another --repository",
            errno.EDQUOT: "the quota is used up: make room, or name another --repository",
            errno.EROFS: "the file system is read-only: name another --repository",
            errno.EXDEV: f"it is a mount point, and nothing can be renamed into one: name a folder in it, --repository {root}/models",
            errno.EACCES: "you may not write there: name another --repository",
            errno.EPERM: "you may not write there: name another --repository",
        }
        reason = advice.get(error.errno or 0, error.strerror or str(error))
        raise RepositoryError(f"{root} cannot be written, and is as it was: {reason}") from None
