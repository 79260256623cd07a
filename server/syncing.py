"""Serves a repository in an object store from a folder of this machine, which may follow it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seresnext101_triton.client import timings
from seresnext101_triton.client.errors import ToolkitError
from seresnext101_triton.server.errors import IntegrityError, ServerError
from seresnext101_triton.server.mirror import INDEX, Mirror
from seresnext101_triton.server.models import chosen_models, model_and_version, versions_to_serve
from seresnext101_triton.server.store import is_url

PURPOSE = "served"
_LOOK_S = 5.0  # how often the store is asked whether its index has changed


@contextmanager
def folder_of(
    name: str, only: Sequence[str], *, follow: bool, say: Callable[[str], None]
) -> Iterator[Path]:
    """The folder of this machine with a repository that was named by its folder or by its URL.

    Args:
        name: The folder or the URL.
        only: The models to serve; all models if it is empty.
        follow: Whether the folder gets what is published meanwhile.
        say: A function that is called with each line for a person.

    Raises:
        StoreError: The object store cannot be read.
        IntegrityError: An artifact is not the one that was published.
        NothingToServe: A model that was named is not there.
    """
    if not is_url(name):
        yield Path(name)
        return
    mirror = Mirror(name, PURPOSE)
    try:
        say(f"fetching {mirror.url} ...")
        needed = _Needed(mirror, only)
        with timings.part("fetching the models"):
            _, mark = mirror.pull(needed.versions)
        if not follow:
            yield mirror.root
            return
        end = threading.Event()
        arguments = (mirror, needed, mark, say, end)
        thread = threading.Thread(target=_follow, args=arguments, daemon=True)
        thread.start()
        try:
            yield mirror.root
        finally:
            end.set()
    except ToolkitError as error:
        error.args = (str(error).replace(str(mirror.root), mirror.url),)
        raise


def served_folder(root: Path) -> Path:
    """The folder from which the servers of this machine serve a repository.

    Args:
        root: The repository, or the mirror of one in an object store.
    """
    mirror = Mirror.at(root)
    return Mirror(mirror.url, PURPOSE).root if mirror else root


def texts_of(name: str) -> Path:
    """The folder of a repository; of one in an object store, a folder without artifacts.

    Raises:
        StoreError: The object store cannot be read.
    """
    if not is_url(name):
        return Path(name)
    mirror = Mirror(name, "texts")
    mirror.pull()
    return mirror.root


class _Needed:
    """Which versions of which models will be served.

    Args:
        mirror: The repository.
        only: The models to serve, as they were named.
    """

    def __init__(self, mirror: Mirror, only: Sequence[str]) -> None:
        self._named = [model_and_version(name) for name in only]
        self._models: set[str] | None = None
        if only:
            mirror.pull()
            self._models = {each.folder.name for each in chosen_models(mirror.root, only)}

    def versions(self, folder: Path) -> list[int]:
        """The versions of a model's folder that will be served."""
        if self._models is not None and folder.name not in self._models:
            return []
        named = [version for model, version in self._named if model == folder.name and version]
        return [*versions_to_serve(folder), *named]


def _follow(
    mirror: Mirror,
    needed: _Needed,
    mark: Mapping[str, Any] | None,
    say: Callable[[str], None],
    end: threading.Event,
) -> None:
    """Bring what is published into the folder. An error is said once, until all is well again."""
    said = ""
    while not end.wait(_LOOK_S):
        problem = ""
        try:
            if mirror.store.has_changed(INDEX, mark):
                found = mirror.store.read(INDEX)
                try:
                    _, mark = mirror.pull(needed.versions)
                except IntegrityError as error:
                    mark = found.mark if found else None  # it is the same until the next change
                    say(f"{error}; the model stays as it is")
        except ServerError as error:
            problem = str(error)
        if problem and problem != said:
            say(f"{problem}; the models stay as they are, and it is looked at again")
        said = problem
