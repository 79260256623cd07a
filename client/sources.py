"""From what a person names to single images: files, folders, patterns, URLs, standard input."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from client.errors import ImageError

SUFFIXES = frozenset([".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"])


def expand(names: Iterable[str]) -> Iterator[str]:
    """The images that are meant, in order, each as a path, a URL or `-`.

    A folder stands for every image in it and in the folders below, known by their suffix; a pattern for what it matches, where the shell
    has not replaced it already. A file is taken as it is, whatever its suffix.

    Raises:
        ImageError: A folder or a pattern holds no image.
    """
    for name in names:
        if name == "-" or name.startswith(("http://", "https://")):
            yield name
        elif Path(name).is_dir():
            yield from _found(_walk(name), f"{name} holds no image: none of its files ends in {', '.join(sorted(SUFFIXES))}")
        elif glob.has_magic(name) and not Path(name).exists():
            matching = sorted(glob.glob(name, recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
            yield from _found(iter(matching), f"nothing matches {name}")
        else:
            yield name


def _found(images: Iterator[str], otherwise: str) -> Iterator[str]:
    first = next(images, None)
    if first is None:
        raise ImageError(otherwise)
    yield first
    yield from images


def _walk(folder: str) -> Iterator[str]:
    """Images by name, those of a folder before those of the folders in it; only one folder's names are held at a time."""
    below = []
    # Strings, not Paths: a hundred thousand of those cost seconds.
    with os.scandir(folder) as entries:
        names = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    for name, is_folder in names:
        path = os.path.join(folder, name)  # noqa: PTH118
        if is_folder:
            below.append(path)
        elif os.path.splitext(name)[1].lower() in SUFFIXES:  # noqa: PTH122
            yield path
    for path in below:
        yield from _walk(path)
