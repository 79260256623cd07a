"""Repositories in an object store: a change is made in a mirror, and then shared.

The steps of a change, in this order:

1. The process takes the lease, and writes into it which paths it will write.
2. The artifacts of new versions are written, each only if nothing has its path, and are read back.
   By no config does Triton serve these versions yet.
3. The index is replaced, on the condition that no other process has replaced it. From here on, the
   repository is the new one.
4. The texts follow, and of these the configs last: a Triton that polls goes over. What the index no
   longer names is removed.

Who takes a dead process's lease over first replaces the index, so that the dead process, should it
wake up, cannot. Then it makes every path of that lease what the index says: before step 3 this
takes away what was written, and after it, it completes the change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seresnext101_triton.client.errors import ToolkitError
from seresnext101_triton.client.output import say
from seresnext101_triton.export import interruption
from seresnext101_triton.export.config import from_text
from seresnext101_triton.export.errors import RepositoryError
from seresnext101_triton.export.journal import undo_killed
from seresnext101_triton.export.lease import Lease
from seresnext101_triton.export.locks import FolderLock
from seresnext101_triton.export.promotion import BACKUP_FILENAME, with_policy
from seresnext101_triton.export.publication import LONGEST_CHANGE_S
from seresnext101_triton.server.digest import sha256
from seresnext101_triton.server.integrity import MANIFEST_FILENAME
from seresnext101_triton.server.mirror import INDEX, Index, Mirror
from seresnext101_triton.server.store import is_url
from seresnext101_triton.server.versions import (
    CONFIG_FILENAME,
    LABELS_FILENAME,
    pinned_policy,
    selected,
)

_PURPOSE = "exports"
_LONGEST_UPLOAD_S = 600.0  # for which another exporter is waited
_TEXTS = (CONFIG_FILENAME, LABELS_FILENAME, BACKUP_FILENAME, MANIFEST_FILENAME)
_SHORT = 1 << 16  # bytes: other texts in a version that are in the index


@dataclass(frozen=True)
class Place:
    """A repository as it was named.

    Attributes:
        folder: Its folder on this machine.
        url: Its URL, if it is in an object store.
    """

    folder: Path
    url: str = ""

    def shown(self, text: object) -> str:
        """A text for a person, with the repository called as it was named."""
        return str(text).replace(str(self.folder), self.url) if self.url else str(text)


@contextmanager
def opened(name: str) -> Iterator[Place]:
    """A repository that was named by its folder or by its URL.

    Raises:
        RepositoryError: The folder of this machine that follows the URL cannot be used.
        StoreError: The object store cannot be read.
    """
    if not is_url(name):
        yield Place(Path(name))
        return
    mirror = Mirror(name, _PURPOSE)
    place = Place(mirror.root, mirror.url)
    try:
        _refresh(mirror)
        yield place
    except ToolkitError as error:
        error.args = (place.shown(error),)
        raise


def changes(root: Path) -> FolderLock:
    """The lock of those who change a repository."""
    refusal = (
        f"{root}: another process has been changing it for {LONGEST_CHANGE_S:.0f} s; "
        "run again when it has finished"
    )
    mirror = Mirror.at(root)
    return SharedChange(mirror, refusal) if mirror else FolderLock(root.parent, refusal)


def complete(folder: Path, *, anew: bool = False) -> None:
    """Fetch the artifacts of a version's folder, if the repository is in an object store.

    Args:
        folder: The folder of the version.
        anew: Fetch them as the store has them now, also those that were fetched before.

    Raises:
        StoreError: The store cannot be read.
        IntegrityError: An artifact is not the one that was published.
    """
    if mirror := Mirror.at(folder.parents[1]):
        mirror.complete(folder, anew=anew)


def is_shared(root: Path) -> bool:
    """Whether a folder is the mirror of a repository in an object store."""
    return Mirror.at(root) is not None


class SharedChange(FolderLock):
    """The right to change a repository in an object store, and its mirror on this machine."""

    def __init__(self, mirror: Mirror, refusal: str) -> None:
        super().__init__(mirror.root.parent, refusal)
        self._mirror = mirror
        self._lease: Lease | None = None
        self._index = Index()
        self._mark: Mapping[str, Any] | None = None
        self._finished = True

    def take(self, wait_s: float = 0.0) -> None:
        wait_s = max(wait_s, _LONGEST_UPLOAD_S)
        super().take(wait_s)
        if self._lease is not None:
            return
        lease = Lease(self._mirror.store)
        left = lease.take(wait_s)
        self._lease, self._finished = lease, left is None
        self._index, self._mark = self._mirror.pull()
        if left is not None:
            self._clean(left)
            say(
                f"{self._mirror.url}: an earlier change did not come to its end; what it left was "
                "removed, or completed if its versions were in the index"
            )
        self._mirror.forget()

    def share(self) -> None:
        if self._lease is None:
            return
        new = _index_of(self._mirror.root, self._index)
        uploads = [path for path in new.files if path not in self._index.files]
        pending = [*uploads, *_differences(self._index, new)]
        if pending:
            interruption.check()
            interruption.leaves_behind(
                "the repository is as it was, or the next command completes the change"
            )
            self._finished = False
            self._lease.note(pending)
            try:
                self._upload(uploads, new)
                self._commit(new)
            except BaseException:
                with suppress(ToolkitError), interruption.held_back():
                    self._index, self._mark = self._mirror.pull()
                    self._clean(pending)
                raise
            self._settle(pending)
            interruption.leaves_behind("all that was asked for is in the repository")
        self._mirror.record(self._index)

    def release(self) -> None:
        if self._lease is not None:
            self._lease.release(finished=self._finished)
            self._lease = None
        super().release()

    def _upload(self, paths: Sequence[str], new: Index) -> None:
        """Write artifacts, and read them back.

        Raises:
            RepositoryError: Something else is at a path, or what is read back is not the artifact.
        """
        store = self._mirror.store
        for model in sorted({path.partition("/")[0] for path in paths} - self._index.models()):
            # Without a config, Triton would serve a model of which half is there.
            path = f"{model}/{CONFIG_FILENAME}"
            if path in new.texts:
                store.create(path, _withheld(new.texts[path]))
        for path in paths:
            written = store.create(path, self._mirror.root / path)
            if store.digest(path) != new.files[path]:
                what = (
                    "what was written is not what is read back: look at the store, and run again"
                    if written
                    else "something else has this path: remove it, or name another `repository`"
                )
                raise RepositoryError(f"{store.url}/{path}: {what}")

    def _commit(self, new: Index) -> None:
        """Replace the index, if it is still the one that was read.

        Raises:
            RepositoryError: It is not.
        """
        assert self._lease is not None
        self._lease.check()
        store, content = self._mirror.store, new.to_bytes()
        mark = (
            store.create(INDEX, content)
            if self._mark is None
            else store.replace(INDEX, content, self._mark)
        )
        if mark is None:
            raise RepositoryError(
                f"{store.url}: another process has changed it meanwhile, so that this change is "
                "not in it: run again"
            )
        self._index, self._mark = new, mark

    def _clean(self, left: Sequence[str]) -> None:
        """Take away, or complete, what a change has left that did not come to its end.

        The index is replaced before, so that a write of that change which is still under way fails.
        """
        self._commit(replace(self._index, generation=self._index.generation + 1))
        self._settle(left)
        self._mirror.record(self._index)

    def _settle(self, paths: Sequence[str]) -> None:
        """Make the objects at these paths what the index says, the configs last."""
        assert self._lease is not None
        store, texts = self._mirror.store, self._index.texts
        for path in sorted(paths, key=_is_config):
            self._lease.check()
            if path in texts:
                store.write(path, _as_stored(self._index, path))
        for path in paths:
            self._lease.check()
            if path not in texts and path not in self._index.files:
                store.remove(path)
        self._finished = True


def _refresh(mirror: Mirror) -> None:
    """Make the mirror what the store says, unless a process of this machine changes it."""
    lock = FolderLock(
        mirror.root.parent,
        f"{mirror.url}: another process has been changing it for {LONGEST_CHANGE_S:.0f} s; "
        "run again when it has finished",
    )
    lock.take(LONGEST_CHANGE_S)
    try:
        if mirror.root.is_dir():
            exports = FolderLock(mirror.root, "")
            if exports.try_to_take():
                undo_killed(mirror.root)
                exports.release()
        mirror.pull()
    finally:
        lock.release()


def _index_of(root: Path, before: Index) -> Index:
    """The index of a mirror. Artifacts that were not fetched are taken from the index before."""
    files: dict[str, str] = {}
    texts: dict[str, str] = {}
    for model in sorted(root.iterdir()):
        if not model.is_dir() or model.name.startswith("."):
            continue
        for path in sorted(model.rglob("*")):
            name = path.relative_to(root).as_posix()
            if not path.is_file():
                continue
            if (text := _text(path, in_version=path.relative_to(model).parts[0].isdigit())) is None:
                files[name] = before.files.get(name) or sha256(path)
            else:
                texts[name] = text
        for name, digest in before.of_model(model.name)[0].items():
            if (root / name).parent.is_dir():
                files.setdefault(name, digest)
    return Index(before.generation + 1, files, texts)


def _text(path: Path, *, in_version: bool) -> str | None:
    """The content of a file that is in the index; None for an artifact."""
    if in_version and path.name not in _TEXTS and path.stat().st_size > _SHORT:
        return None
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        if in_version:
            return None
        raise RepositoryError(
            f"{path} is not text: beside versions, a repository in an object store has texts only"
        ) from None


def _differences(old: Index, new: Index) -> list[str]:
    """The paths of the texts that differ, and of everything that is gone."""
    changed = [
        path
        for path in new.texts
        if path not in old.texts or _as_stored(old, path) != _as_stored(new, path)
    ]
    gone = [
        path for path in (*old.files, *old.texts) if path not in new.files and path not in new.texts
    ]
    return changed + gone


def _is_config(path: str) -> bool:
    return path.count("/") == 1 and path.endswith(f"/{CONFIG_FILENAME}")


def _as_stored(index: Index, path: str) -> bytes:
    """The content of a text for Triton. A config names the versions that are there.

    By the policy `latest` Triton would load the next version while its files are being written.
    """
    if not _is_config(path):
        return index.texts[path].encode()
    files, texts = index.of_model(path.partition("/")[0])
    folders = {each.split("/")[1] for each in (*files, *texts)}
    available = sorted(int(each) for each in folders if each.isdigit())
    text = index.texts[path]
    return with_policy(text, pinned_policy(*selected(from_text(text), available))).encode()


def _withheld(text: str) -> bytes:
    """A config by which Triton serves no version."""
    return with_policy(text, pinned_policy(0)).encode()
