"""The model repository: models in numbered versions, and the right to change them."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from seresnext101_triton.export.errors import RepositoryError
from seresnext101_triton.export.filesystem import explained
from seresnext101_triton.export.journal import undo_killed
from seresnext101_triton.export.publication import Publication
from seresnext101_triton.server.installation import EMBEDDED_CONFIG

CONFIG_FILENAME = "config.pbtxt"
EMBEDDED_CONFIG_FILENAME = f"configs/{EMBEDDED_CONFIG}.pbtxt"
MANIFEST_FILENAME = "manifest.json"

# What Triton takes for a version: the name begins with no zero and fits into 64 bits
# (docs/user_guide/model_repository.md).
_VERSION = re.compile("[1-9][0-9]{0,17}")


class Repository:
    """A folder of models.

    Args:
        root: The folder; it need not exist yet. Links in it are followed: one repository has one
            name, however it is spelled.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))

    def versions(self, model: str) -> list[int]:
        """The published versions of a model, oldest first."""
        return [
            version
            for version in self._numbers(model)
            if (self.root / model / str(version)).is_dir()
        ]

    def latest(self, model: str) -> Path | None:
        """The folder of a model's newest version."""
        versions = self.versions(model)
        return self.root / model / str(versions[-1]) if versions else None

    def next_version(self, model: str) -> int:
        """The number of the version that will be published next."""
        return max(self._numbers(model), default=0) + 1

    @contextmanager
    def exclusive(self) -> Iterator[Publication]:
        """Lock the repository against other exports, and undo one that was killed.

        Yields:
            What models are published by.

        Raises:
            RepositoryError: Another export holds it, it cannot be written, or an export that was
                killed cannot be undone.
        """
        lock = _Lock(self.root)
        with ExitStack() as stack:
            stack.callback(lock.release)
            with explained(self.root):
                for folder in [
                    folder for folder in (self.root, *self.root.parents) if not folder.exists()
                ][::-1]:
                    stack.callback(_remove_if_empty, folder)
                self.root.mkdir(parents=True, exist_ok=True)
                lock.take()
                publication = Publication(self.root, undo_killed(self.root))
            stack.callback(publication.close)
            with publication.explained():
                yield publication

    def _numbers(self, model: str) -> list[int]:
        """Every name in a model's folder that Triton takes for a version of a folder, in order."""
        folder = self.root / model
        with explained(self.root):
            return (
                sorted(int(path.name) for path in folder.iterdir() if _VERSION.fullmatch(path.name))
                if folder.is_dir()
                else []
            )


class _Lock:
    """The right to change a repository.

    One process has it at a time. The system takes it from a process that dies.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take it now.

        Raises:
            RepositoryError: Another process has it.
        """
        self._descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # It is another folder where the other process has just removed this one.
            if os.path.samestat(os.fstat(self._descriptor), self._root.stat()):
                return
        raise RepositoryError(
            f"{self._root}: another export is writing to it; run again when it has finished"
        )

    def release(self) -> None:
        """Give it back, where it was taken."""
        if self._descriptor is not None:
            with suppress(OSError):  # it is closed all the same
                os.close(self._descriptor)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
