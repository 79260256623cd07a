"""What folders need and the standard library does not have: their replacement, and a cache."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


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


def cache_folder(name: str) -> Path:
    """Where something is kept for later launches and exports of this user, by its name."""
    caches = os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache"
    return Path(caches, "seresnext101-triton", name)


def _aside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.aside")
