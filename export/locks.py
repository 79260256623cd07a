"""Locks of folders by flock(2). The system takes a lock from a process that dies."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from seresnext101_triton.export.errors import RepositoryError

_POLL_S = 0.02


class FolderLock:
    """The right to do something with a folder. One process has it at a time.

    Args:
        folder: The folder. It stays as it is.
        refusal: The text of the error if another process has the right.
    """

    def __init__(self, folder: Path, refusal: str) -> None:
        self._folder = folder
        self._refusal = refusal
        self._descriptor: int | None = None

    def take(self, wait_s: float = 0.0) -> None:
        """Take the lock, unless this object has it already.

        Args:
            wait_s: How long to wait for another process, in seconds.

        Raises:
            RepositoryError: Another process still has it.
            OSError: The folder cannot be read.
        """
        deadline = time.monotonic() + wait_s
        while not self.try_to_take():
            if time.monotonic() >= deadline:
                raise RepositoryError(self._refusal)
            time.sleep(_POLL_S)

    def try_to_take(self) -> bool:
        """Take the lock if no other process has it. Returns whether this object has it.

        Raises:
            OSError: The folder cannot be read.
        """
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # It is another folder where the other process has just removed this one.
                if os.path.samestat(os.fstat(descriptor), self._folder.stat()):
                    self._descriptor, descriptor = descriptor, -1
                    return True
        finally:
            if descriptor >= 0:
                _close(descriptor)
        return False

    def share(self) -> None:
        """Let others have what was changed. A folder of this machine needs nothing for that."""

    def release(self) -> None:
        """Give the lock back, if this object has it."""
        if self._descriptor is not None:
            _close(self._descriptor)
            self._descriptor = None


def _close(descriptor: int) -> None:
    with suppress(OSError):  # it is closed all the same
        os.close(descriptor)
