"""What publishing needs of a file system and the standard library does not have."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seresnext101_triton.export.errors import RepositoryError

_ADVICE = {
    errno.ENOSPC: "the disk is full: make room, or name another `repository`",
    errno.EDQUOT: "the quota is used up: make room, or name another `repository`",
    errno.EIO: "the disk has failed (Input/output error): look into the system's log, "
    "or name another `repository`",
    errno.EROFS: "the file system is read-only: name another `repository`",
    errno.EACCES: "no permission{where}: name another `repository`",
    errno.EPERM: "no permission{where}: name another `repository`",
}


def sync_tree(folder: Path) -> None:
    """Write a folder's files, and all names in it, to the disk."""
    for path in (folder, *folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            sync(path)


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(folder: Path) -> None:
    """Remove a folder, as far as permissions allow.

    Folders in it that may not be written are made writable first.
    """
    for parent, names, _ in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            with suppress(OSError):  # it is another user's
                if not path.is_symlink():
                    path.chmod(stat.S_IRWXU)
    with suppress(OSError):  # `rmtree` does not ignore those of fstat(2)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def explained(root: Path) -> Iterator[None]:
    """Say what a failed write means and what to do.

    Raises:
        RepositoryError: In the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise RepositoryError(
            f"{root} cannot be written, and is as it was: {reason(error)}"
        ) from None


def reason(error: OSError) -> str:
    """What went wrong, where, and what to do."""
    where = f" for {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
    if error.errno in _ADVICE:
        return _ADVICE[error.errno].format(where=where)
    return f"{error.strerror}{where}" if error.strerror else str(error)
