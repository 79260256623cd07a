"""Publishing several models in one transaction.

The new folder of every model is built in one staging folder beside the repository, on the same file
system. `Publication.publish` writes all new folders to the disk, and then a journal. Then it
renames each new folder into the repository, in exchange for the old one. A server never sees an
incomplete model. If a rename fails, the renames before it are undone. If the process is killed
between two renames, the next export uses the journal to undo them.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from seresnext101_triton.export import interruption, journal
from seresnext101_triton.export.errors import RepositoryError
from seresnext101_triton.export.filesystem import explained, reason, sync, sync_tree
from seresnext101_triton.export.locks import FolderLock
from seresnext101_triton.server.embedded import EMBEDDED_CONFIG_FILENAME, embedded_text
from seresnext101_triton.server.folders import link_tree
from seresnext101_triton.server.versions import CONFIG_FILENAME

LONGEST_CHANGE_S = 60.0
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


class Publication:
    """A transaction: `publish` puts all staged models into the repository, or none.

    `Repository.exclusive` and `Repository.changing` make it. `close` removes what was staged and
    not published. This does not change the repository.

    Args:
        root: The repository's folder.
        restored: See below.
        changes: The lock of those who change the models. It is taken before the first model is
            staged, and released by `close`.

    Attributes:
        restored: Models that were restored. An export was killed while it published them, and they
            now are as before that export.
    """

    def __init__(self, root: Path, restored: Sequence[str], changes: FolderLock) -> None:
        self.root = root
        self._changes = changes
        self.restored = tuple(restored)
        self._staging: Path | None = None
        self._staged: list[StagedModel] = []
        self._numbers = itertools.count(1)

    def prepare(self, models: Sequence[str], bytes_needed: int) -> None:
        """Check before the long work that these models can be published.

        Args:
            models: The names of the models.
            bytes_needed: About how many bytes will be written.

        Raises:
            RepositoryError: The repository cannot be written, its disk is too full, or something
                that is not a folder has a model's name.
        """
        for model in models:
            self._check_name(model)
        with explained(self.root):
            self._check_root()
            free = shutil.disk_usage(self.root.parent).free
        if free < bytes_needed:
            raise RepositoryError(
                f"{self.root}: about {bytes_needed / 1e6:.0f} MB will be written "
                f"and {free / 1e6:.0f} MB are free: "
                "make room, or name another `repository`"
            )

    def scratch(self) -> Path:
        """Make an empty folder on the repository's file system. `close` removes it.

        Raises:
            RepositoryError: The folder cannot be made.
        """
        with explained(self.root):
            # No model's name begins with a dot.
            folder = self._folder() / f".scratch-{next(self._numbers)}"
            folder.mkdir()
            return folder

    def stage(self, model: str) -> StagedModel:
        """Make a copy of a model's folder, which can be changed and then published.

        The files in it are hard links to the published files. No other process of this toolkit
        changes a model from this call on until `close`. So this call must come after the long work.

        Raises:
            RepositoryError: The repository cannot be written, something that is not a folder has
                the model's name, or another process changes the repository for too long.
        """
        self._check_name(model)
        with explained(self.root):
            self._check_root()
            self._changes.take(LONGEST_CHANGE_S)
            published, folder = self.root / model, self._folder() / model
            replaces = published.exists()
            if replaces:
                link_tree(published, folder)
            else:
                folder.mkdir()
        self._staged.append(StagedModel(folder, replaces))
        return self._staged[-1]

    def folder_of(self, model: str) -> Path:
        """The folder of a model as it will be: the staged one, or else the published one."""
        staged = (each.folder for each in self._staged if each.folder.name == model)
        return next(staged, self.root / model)

    def publish(self) -> None:
        """Put every staged model into the repository, so that it survives a power failure.

        Raises:
            RepositoryError: The repository cannot be written. The message says what its state is.
            KeyboardInterrupt: A signal came. If it came before the first rename, nothing has
                changed. If it came during the renames, everything is published.
        """
        if not self._staged:
            return
        folder = self._folder()
        with explained(self.root):
            for staged in self._staged:
                sync_tree(staged.folder)
            moves = [
                journal.Move.of(staged.folder, self.root, replaces=staged.replaces)
                for staged in self._staged
            ]
            journal.write(folder, moves)
            sync(folder.parent)
        interruption.check()
        with interruption.held_back(), explained(self.root):
            try:
                for move in moves:
                    move.make()
                sync(self.root)
                sync(folder)
            except BaseException as error:
                self._undo(moves, error)
                raise
            interruption.leaves_behind("all that was asked for is in the repository")
            self._staged = []

    def close(self) -> None:
        """Remove staged folders that were not published, and old folders that were replaced."""
        if self._staging is not None:
            journal.discard(self._staging)
        self._changes.release()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn an error of the operating system in the staging folder into a `RepositoryError`.

        Other errors of the operating system pass through.
        """
        try:
            yield
        except OSError as error:
            inside = (
                isinstance(error.filename, str | Path)
                and self._staging in Path(error.filename).parents
            )
            if self._staging is None or not (inside or error.errno in _OF_THE_DISK):
                raise
            with explained(self.root):
                raise

    def _undo(self, moves: Sequence[journal.Move], error: BaseException) -> None:
        """Put the old models back after an error.

        Raises:
            RepositoryError: Not all could be put back. They stay in the staging folder, for the
                next export, which tries again.
        """
        folder = self._folder()
        if failures := journal.undo(moves):
            self._staging = None
            state = f"{journal.states(moves)}. {self._next(moves, folder)}"
            interruption.leaves_behind(state)
            cause = reason(error) if isinstance(error, OSError) else repr(error)
            raise RepositoryError(
                f"{self.root} cannot be written: {cause}. "
                f"Undoing it failed: {reason(failures[0])}. {state}"
            ) from None
        try:
            sync(self.root)
            sync(folder)
        except OSError:
            self._staging = None  # the disk may not have the old state, so that the journal stays

    @staticmethod
    def _next(moves: Sequence[journal.Move], folder: Path) -> str:
        """What `journal.undo_killed` will do in the next export."""
        if all(move.state == "new" for move in moves):
            return (
                "So all new models are in the repository, "
                f"and the next export removes the old ones in {folder}"
            )
        return f"The next export tries again to put the old ones back from {folder}: leave it there"

    def _folder(self) -> Path:
        """The staging folder. It is made when it is first needed."""
        if self._staging is None:
            try:
                self._staging = Path(
                    tempfile.mkdtemp(prefix=journal.prefix(self.root), dir=self.root.parent)
                )
            except PermissionError as error:
                raise OSError(error.errno, error.strerror, str(self.root.parent)) from None
        return self._staging

    def _check_name(self, model: str) -> None:
        published = self.root / model
        if published.parent != self.root or model == "..":
            raise RepositoryError(f"{model!r} cannot be a model's name: it is a path")
        with explained(self.root):
            if published.is_symlink() or (published.exists() and not published.is_dir()):
                raise RepositoryError(
                    f"{published} is a link or a file where a model's folder should be: "
                    "move it, or choose another `name`"
                )

    def _check_root(self) -> None:
        if not os.access(self.root, os.W_OK | os.X_OK):
            read_only = os.statvfs(self.root).f_flag & os.ST_RDONLY
            raise OSError(errno.EROFS if read_only else errno.EACCES, "", str(self.root))
        name = f"{journal.prefix(self.root)}probe"
        try:
            # There is no folder of this name. But the kernel first compares the mount points.
            os.rename(self.root.parent / name, self.root / name)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise RepositoryError(
                f"{self.root} cannot be written, and is as it was: it is a mount point, "
                "and nothing can be renamed into one: "
                f"name a folder in it, `repository={self.root}/models`"
            ) from None


@dataclass(frozen=True)
class StagedModel:
    """A model's folder before it is published.

    Attributes:
        folder: The folder, with all published versions in it.
        replaces: Whether the repository already has a folder of this model.
    """

    folder: Path
    replaces: bool

    def add_version(self, version: int, content: Path) -> None:
        """Make a folder of `Publication.scratch` the folder of a new version."""
        os.rename(content, self.folder / str(version))

    def keep_only(self, version: int) -> None:
        """Remove every version but one, whose folder is made if there is none."""
        for folder in [path for path in self.folder.iterdir() if path.name.isdigit()]:
            if folder.name != str(version):
                shutil.rmtree(folder)
        (self.folder / str(version)).mkdir(exist_ok=True)

    def write(self, filename: str, content: str | bytes | None) -> None:
        """Write a file beside the versions, or `N/FILE` in one. None removes the file.

        The published file stays unchanged, although the staged file was a link to it. Beside
        config.pbtxt lies the config for the embedded server, where that needs another one.
        """
        content = content.encode() if isinstance(content, str) else content
        self._write(filename, content)
        if filename == CONFIG_FILENAME:
            embedded = embedded_text((content or b"").decode(errors="replace"))
            self._write(EMBEDDED_CONFIG_FILENAME, embedded.encode() if embedded else None)

    def _write(self, filename: str, content: bytes | None) -> None:
        path = self.folder / filename
        path.unlink(missing_ok=True)
        if content is not None:
            if not path.parent.is_dir():
                path.parent.mkdir()
            path.write_bytes(content)
        elif path.parent != self.folder and path.parent.name == "configs":
            with suppress(OSError):  # it is not there, or holds another file
                path.parent.rmdir()
