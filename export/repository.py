"""The model repository: models in numbered versions, and the right to change them.

Two locks protect it. An export has the first lock, on the repository's folder, all the time, so
that no two exports run at once. Who changes the models has the second lock, on the folder that
holds the repository, for the seconds of the change. So a version can be promoted or rolled back
while a long export runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from os.path import realpath
from pathlib import Path

from seresnext101_triton.export import sharing
from seresnext101_triton.export.errors import RepositoryError
from seresnext101_triton.export.filesystem import explained
from seresnext101_triton.export.journal import undo_killed
from seresnext101_triton.export.locks import FolderLock
from seresnext101_triton.export.publication import LONGEST_CHANGE_S, Publication
from seresnext101_triton.server import versions
from seresnext101_triton.server.needs import artifact_models


class Repository:
    """A folder of models.

    Args:
        root: The folder; it need not exist yet. Links in it are followed: one repository has one
            name, however it is spelled.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(realpath(root))

    def models(self) -> list[str]:
        """The names of the models that have a version and an artifact of their own, sorted.

        Raises:
            RepositoryError: The repository is not there, or cannot be read.
        """
        if not self.root.is_dir():
            raise RepositoryError(f"{self.root} is not a folder: name a `repository` that exists")
        with explained(self.root):
            folders = sorted(path.name for path in self.root.iterdir() if path.is_dir())
        names = [name for name in folders if not name.startswith(".") and self.versions(name)]
        return artifact_models([self.root / name for name in names])

    def versions(self, model: str) -> list[int]:
        """The published versions of a model, oldest first."""
        with explained(self.root):
            return versions.versions(self.root / model)

    def latest(self, model: str) -> Path | None:
        """The folder of a model's newest version."""
        published = self.versions(model)
        return self.root / model / str(published[-1]) if published else None

    def next_version(self, model: str) -> int:
        """The number of the version that will be published next."""
        with explained(self.root):
            return max(versions.taken_numbers(self.root / model), default=0) + 1

    @contextmanager
    def exclusive(self) -> Iterator[Publication]:
        """Lock the repository against other exports, and undo one that was killed.

        Yields:
            What models are published by.

        Raises:
            RepositoryError: Another export holds it, it cannot be written, or an export that was
                killed cannot be undone.
        """
        exports, changes = self._locks()
        with ExitStack() as stack:
            stack.callback(exports.release)
            stack.callback(changes.release)
            with explained(self.root):
                for folder in [
                    folder for folder in (self.root, *self.root.parents) if not folder.exists()
                ][::-1]:
                    stack.callback(_remove_if_empty, folder)
                self.root.mkdir(parents=True, exist_ok=True)
                changes.take(LONGEST_CHANGE_S)
                exports.take()
                publication = Publication(self.root, undo_killed(self.root), changes)
                changes.share()
            changes.release()
            stack.callback(publication.close)
            with publication.explained():
                yield publication
                changes.share()

    @contextmanager
    def changing(self) -> Iterator[Publication]:
        """Lock the repository for a change of seconds, also while an export runs.

        An export that was killed is undone before.

        Yields:
            What the change is published by.

        Raises:
            RepositoryError: It is not there, cannot be written, another process changes it for too
                long, or an export that was killed cannot be undone.
        """
        if not self.root.is_dir():
            raise RepositoryError(f"{self.root} is not a folder: name a `repository` that exists")
        exports, changes = self._locks()
        with ExitStack() as stack:
            stack.callback(exports.release)
            stack.callback(changes.release)
            with explained(self.root):
                changes.take(LONGEST_CHANGE_S)
                # An export that runs has undone the one before it, and has changed nothing yet.
                restored = undo_killed(self.root) if exports.try_to_take() else []
                publication = Publication(self.root, restored, changes)
            stack.callback(publication.close)
            with publication.explained():
                yield publication
                changes.share()

    def _locks(self) -> tuple[FolderLock, FolderLock]:
        """The lock of exports, and the lock of changes."""
        return (
            FolderLock(
                self.root,
                f"{self.root}: another export is writing to it; run again when it has finished",
            ),
            sharing.changes(self.root),
        )


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
