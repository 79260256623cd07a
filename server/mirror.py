"""A folder of this machine that follows a repository in an object store.

In the store, a repository has the layout that Triton reads, and an index beside its models. The
index names every file with its sha256, and holds the short files themselves. It is replaced by one
conditional write, so that the index is the repository as it is at one moment. The folder gets what
the index says, one model at a time, each in one step. Artifacts are fetched only where they are
needed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seresnext101_triton.server.digest import sha256
from seresnext101_triton.server.errors import IntegrityError, StoreError
from seresnext101_triton.server.folders import cache_folder, exchange, link
from seresnext101_triton.server.store import Store, checked

INDEX = ".repository.json"  # Triton takes only folders for models
SCHEMA = 1
_DEEPEST = 4  # MODEL/configs/FILE, MODEL/VERSION/FOLDER/FILE

# Which versions of a model's folder need their artifacts.
Wanted = Callable[[Path], Sequence[int]]


@dataclass(frozen=True)
class Index:
    """A repository at one moment.

    Attributes:
        generation: It is another one after every change.
        files: The sha256 of every artifact by its path, for example `MODEL/1/model.onnx`.
        texts: The content of every other file by its path.
    """

    generation: int = 0
    files: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The index as it is stored."""
        return json.dumps({"schema": SCHEMA, **vars(self)}, indent=1).encode()

    @classmethod
    def of(cls, content: bytes, url: str) -> Index:
        """Read an index.

        Raises:
            StoreError: It is damaged, or of another version of this toolkit. A path that leads out
                of its model's folder is damage too.
        """
        try:
            found = json.loads(content)
            if found["schema"] != SCHEMA:
                raise ValueError
            index = cls(int(found["generation"]), dict(found["files"]), dict(found["texts"]))
            paths = {**index.files, **index.texts}
            if not all(_is_safe(path) for path in paths):
                raise ValueError
            if not all(isinstance(each, str) for each in paths.values()):
                raise ValueError
        except (ValueError, TypeError, KeyError, RecursionError):
            raise StoreError(
                f"{url}/{INDEX} is damaged, or of another version of this toolkit: "
                "put an older version of this object back, or name another `repository`"
            ) from None
        return index

    def models(self) -> set[str]:
        """The names of the models."""
        return {path.partition("/")[0] for path in (*self.files, *self.texts)}

    def of_model(self, model: str) -> tuple[dict[str, str], dict[str, str]]:
        """The files and the texts of a model."""
        start = f"{model}/"
        return (
            {path: digest for path, digest in self.files.items() if path.startswith(start)},
            {path: text for path, text in self.texts.items() if path.startswith(start)},
        )


def _is_safe(path: str) -> bool:
    parts = path.split("/")
    return (
        2 <= len(parts) <= _DEEPEST
        and not parts[0].startswith(".")
        and not {"", ".", ".."} & set(parts)
        and "\0" not in path
    )


class Mirror:
    """The folder of one repository.

    Args:
        url: The repository.
        purpose: Folders of different purposes have nothing in common.

    Attributes:
        root: The folder with the models. It is there if the store has an index.

    Raises:
        UsageError: It is no URL of an object store.
        InstallationError: A package is missing.
        StoreError: The environment lacks what the store needs, or the folder cannot be made.
    """

    def __init__(self, url: str, purpose: str) -> None:
        self.url = checked(url)
        self.store = Store(self.url)
        place = hashlib.sha256(f"{purpose} {self.url}".encode()).hexdigest()[:16]
        self._home = _caches() / place
        self.root = self._home / "models"
        self._record = self._home / "index.json"
        origin = self._home / "origin"
        try:
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not origin.exists():
                written = self._home / f".origin-{os.getpid()}"
                written.write_text(f"{purpose} {self.url}", encoding="utf-8")
                written.rename(origin)
        except OSError as error:
            raise StoreError(f"{self._home} cannot be written: {error.strerror}") from None

    @classmethod
    def at(cls, root: Path) -> Mirror | None:
        """The mirror whose folder this is, or None."""
        origin = root.parent / "origin"
        if root.parent.parent != _caches() or not origin.is_file():
            return None
        purpose, _, url = origin.read_text(encoding="utf-8").partition(" ")
        return cls(url, purpose)

    def pull(self, wanted: Wanted | None = None) -> tuple[Index, Mapping[str, Any] | None]:
        """Make the folder what the store says.

        Args:
            wanted: Which versions of a model need their artifacts; it is called with the model's
                folder before the folder comes into its place. None means that no artifact is
                needed.

        Returns:
            The index, and its mark for a conditional write; None if the store has no index.

        Raises:
            StoreError: The store cannot be read, or the folder cannot be written.
            IntegrityError: An artifact is not the one that was published. Its model stays as it is.
        """
        index, mark = self._stored()
        with self._written():
            before = self._recorded()
            self._record.unlink(missing_ok=True)  # until all models are there
            if mark is not None:
                self.root.mkdir(exist_ok=True)
            local = {path.name for path in self.root.iterdir()} if self.root.is_dir() else set()
            wrong: list[IntegrityError] = []
            for model in sorted(index.models() | local):
                same = before is not None and before.of_model(model) == index.of_model(model)
                if not same or wanted:
                    try:
                        self._replace(model, index, before, wanted, same=same)
                    except IntegrityError as error:
                        wrong.append(error)
            if wrong:
                raise wrong[0]
            self.record(index)
        return index, mark

    def record(self, index: Index) -> None:
        """Note that the folder is what this index says."""
        self._record.write_bytes(index.to_bytes())

    def forget(self) -> None:
        """Note that the folder is about to be changed, and may become another than any index."""
        self._record.unlink(missing_ok=True)

    def complete(self, folder: Path, *, anew: bool = False) -> None:
        """Fetch the artifacts that a version's folder lacks.

        Args:
            folder: The folder of the version.
            anew: Fetch all artifacts as the store has them now, whatever they are.

        Raises:
            StoreError: The store cannot be read, or the folder cannot be written.
            IntegrityError: An artifact is not the one that was published.
        """
        index = self._recorded() or self._stored()[0]  # a pull that failed leaves no record
        with self._written():
            start = f"{folder.parent.name}/{folder.name}/"
            for path in index.files:
                if path.startswith(start) and (anew or not (self.root / path).is_file()):
                    self._fetch(path, self.root / path, "" if anew else index.files[path])

    def _replace(
        self,
        model: str,
        index: Index,
        before: Index | None,
        wanted: Wanted | None,
        *,
        same: bool,
    ) -> None:
        """Put the folder of a model into its place, in exchange for the old one."""
        files, texts = index.of_model(model)
        place = self.root / model
        stage = Path(tempfile.mkdtemp(prefix=".pull-", dir=self._home))
        try:
            new = stage / model
            for path, text in texts.items():
                _write(stage / path, text)
            for path, digest in files.items():
                old = self.root / path
                (stage / path).parent.mkdir(parents=True, exist_ok=True)
                known = before is not None and before.files.get(path) == digest
                if old.is_file() and (known or sha256(old) == digest):
                    link(str(old), str(stage / path))
            needed = wanted(new) if wanted and new.is_dir() else ()
            missing = [
                path
                for path in files
                if not (stage / path).exists() and path.split("/")[1] in map(str, needed)
            ]
            for path in missing:
                self._fetch(path, stage / path, files[path])
            if same and not missing:
                return
            if not new.is_dir():
                place.rename(new)
            elif place.is_dir():
                exchange(new, place)
            else:
                new.rename(place)
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    def _fetch(self, path: str, destination: Path, digest: str) -> None:
        """Fetch an artifact. It appears when it is complete.

        Raises:
            IntegrityError: It has another digest.
        """
        part = destination.with_name(f".{destination.name}.part")
        try:
            found = self.store.digest(path, part)
            if digest and found != digest:
                what = "is not the file that was published" if found else "is missing"
                raise IntegrityError(
                    f"{self.url}/{path} {what}: choose another version, or export this one anew"
                )
            if found:
                part.rename(destination)
            else:
                destination.unlink(missing_ok=True)
        finally:
            part.unlink(missing_ok=True)

    def _stored(self) -> tuple[Index, Mapping[str, Any] | None]:
        """The index in the store, and its mark; None if the store has none."""
        found = self.store.read(INDEX)
        return (Index.of(found.content, self.url), found.mark) if found else (Index(), None)

    def _recorded(self) -> Index | None:
        with suppress(OSError, StoreError):
            return Index.of(self._record.read_bytes(), self.url)
        return None

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Only one process changes the folder at a time.

        Raises:
            StoreError: In the place of an OSError.
        """
        try:
            with (self._home / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                for left in self._home.glob(".pull-*"):
                    shutil.rmtree(left, ignore_errors=True)
                yield
        except OSError as error:
            raise StoreError(
                f"{self._home}, where {self.url} is kept on this machine, cannot be written: "
                f"{error.strerror or error}"
            ) from None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def _caches() -> Path:
    """Where all mirrors of this user are."""
    return Path(os.path.realpath(cache_folder("repositories")))
