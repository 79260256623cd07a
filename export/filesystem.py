"""What publishing needs of a file system and the standard library does not have."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seresnext101_triton.export.errors import RepositoryError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)

_ADVICE = {
    errno.ENOSPC: "the disk is full: make room, or name another `repository`",
    errno.EDQUOT: "the quota is used up: make room, or name another `repository`",
    errno.EIO: "the disk has failed (Input/output error): look into the system's log, "
    "or name another `repository`",
    errno.EROFS: "the file system is read-only: name another `repository`",
    errno.EACCES: "no permission{where}: name another `repository`",
    errno.EPERM: "no permission{where}: name another `repository`",
}


def exchange(one: Path, other: Path) -> None:
    """Let two folders change places, in one step (renameat2(2)) where the file system can.

    Some network file systems cannot. There it takes three renames, with a moment in which `other`
    is not there; `settle` repairs what an error or a kill leaves between them.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if (
        libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
        == 0
    ):
        return
    if (code := ctypes.get_errno()) not in _NO_EXCHANGE:
        raise OSError(code, os.strerror(code), str(other))
    os.rename(other, _aside(one))
    os.rename(one, other)
    os.rename(_aside(one), one)


def settle(one: Path, other: Path) -> None:
    """Complete or undo an exchange that stopped between its renames."""
    if os.path.lexists(_aside(one)):
        os.rename(_aside(one), one if os.path.lexists(other) else other)


def link_tree(source: Path, destination: Path) -> None:
    """Make a folder with links to the files of another folder.

    No file is opened, because opening a FIFO would block.
    """
    destination.mkdir()
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                link_tree(Path(entry.path), destination / entry.name)
            elif entry.is_symlink():
                (destination / entry.name).symlink_to(Path(entry.path).readlink())
            else:
                link(entry.path, str(destination / entry.name))
    shutil.copystat(source, destination)


def link(source: str, destination: str) -> None:
    """Give a file a second name, or a copy where the file system has no hard links.

    Raises:
        OSError: It can be neither linked nor copied; FIFOs, sockets and devices are never copied.
    """
    try:
        os.link(source, destination)
    except OSError as error:
        if not stat.S_ISREG(os.lstat(source).st_mode):
            raise OSError(
                error.errno, "it is no regular file and cannot be linked", source
            ) from None
        shutil.copy2(source, destination)


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


def _aside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.aside")


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
