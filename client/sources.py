"""Finds the images that a person names: files, folders, patterns, URLs, standard input."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from seresnext101_triton.client.errors import ImageError

STANDARD_INPUT = "-"
_SCHEMES = ("http://", "https://")
_STORES = ("s3://", "gs://", "az://")
# Suffixes of the formats that images.py decodes and in which people keep images. Left out are
# icons (.ico, .icns, .xbm, .xpm), documents (.eps, .ps), films (.mpg, .fli), data (.fits, .h5,
# .grib), parts of games (.blp, .ftc, .gbr) and suffixes that mostly name other things (.rgb, .bw,
# .im, .vst, .pfm).
_IMAGE_SUFFIXES = (
    "apng avif avifs bmp dds dib gif j2c j2k jfif jp2 jpc jpe jpeg jpf jpg jpx mpo "
    "pbm pcx pgm png pnm ppm psd qoi ras sgi tga tif tiff webp"
)
SUFFIXES = frozenset(f".{name}" for name in _IMAGE_SUFFIXES.split())
_SUFFIXES_COUNTED = 1000  # a folder may hold any number of different suffixes


def is_url(name: str) -> bool:
    """Whether a name is a URL. Its scheme may have upper case letters (RFC 3986, section 3.1)."""
    return name[:8].lower().startswith((*_SCHEMES, *_STORES))


def is_object(name: str) -> bool:
    """Whether a name is the URL of an object, or of several, in an object store."""
    return name[:5].lower().startswith(_STORES)


class Unreadable(str):
    """The name of a folder, link or pattern in which the search for images failed.

    It counts as an image that has failed.

    Attributes:
        error: Why the search failed.
    """

    error: ImageError

    def __new__(cls, name: str, reason: str) -> Unreadable:
        made = super().__new__(cls, name)
        made.error = ImageError(reason)
        return made


@dataclass
class LeftOut:
    """What the search found in folders and did not take as an image.

    Attributes:
        files: How many files have a suffix that is not one of images, by suffix.
        hidden: Files and folders whose names begin with a dot.
        again: Links to folders that were searched already under another name.
    """

    files: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    again: int = 0

    def __str__(self) -> str:
        """For example `3 files not named like a picture (2 .txt, 1 .db), 1 hidden`, or empty."""
        parts = []
        if self.files:
            ranked = sorted(self.files.items(), key=lambda item: (-item[1], item[0]))
            shown = ", ".join(f"{count} {suffix}" for suffix, count in ranked[:3])
            more = ", ..." if len(ranked) > 3 else ""
            files = _count(self.files.total(), "file", "files")
            parts.append(f"{files} not named like a picture ({shown}{more})")
        if self.hidden:
            parts.append(f"{self.hidden} hidden")
        if self.again:
            folders = _count(self.again, "folder", "folders")
            parts.append(f"{folders} that a link leads to a second time")
        return ", ".join(parts)

    def add(self, name: str) -> None:
        """Count a file."""
        suffix = os.path.splitext(name)[1].lower() or "without suffix"
        self.files[
            suffix if suffix in self.files or len(self.files) < _SUFFIXES_COUNTED else "others"
        ] += 1


def has_image_suffix(name: str) -> bool:
    """Whether a file's name ends in a suffix of images, in upper or lower case."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def expand(names: Iterable[str], left_out: LeftOut | None = None) -> Iterator[str]:
    """The images that are meant, in order, each as a path, a URL or `-`.

    The URL of an object store means every image below it, unless it has a suffix of images itself.
    An `Unreadable` stands for a name for which the search failed. A folder means every image in it
    and in the folders below, known by its suffix. A pattern means what it matches, if the shell has
    not replaced it already: `**` matches folders too, and no wildcard matches a leading dot, as in
    a shell. `~` is the home folder. A file is taken whatever its suffix is. An image that is named
    twice is given twice.

    Args:
        names: Files, folders, patterns, URLs, or `-` for standard input.
        left_out: Counts what is left out.
    """
    left_out = LeftOut() if left_out is None else left_out
    for name in names:
        yield from _expand(name, left_out)


def readable(images: Iterable[str]) -> Iterator[str]:
    """What `expand` returns, for callers that need every image.

    Raises:
        ImageError: The search failed for one of the names.
    """
    for image in images:
        if isinstance(image, Unreadable):
            raise image.error
        yield image


def walk(folder: str, left_out: LeftOut) -> Iterator[str]:
    """The images of a folder and the folders below, sorted by name, those of a folder first.

    Only the names of one folder are in memory at a time. Links to folders are followed after
    everything else, and no folder is searched twice, so that a link to a folder above ends.

    Args:
        folder: The folder.
        left_out: Counts what is left out.
    """
    folders, links, walked = [(folder, os.path.realpath(folder))], deque[str](), set[str]()
    while folders or links:
        if folders:
            path, real = folders.pop()
        else:
            path = links.popleft()
            real = os.path.realpath(path)
        if real in walked:
            left_out.again += 1
            continue
        walked.add(real)
        listing = _Listing(path, left_out)
        yield from listing.images
        links.extend(listing.links)
        folders += [
            (os.path.join(path, name), os.path.join(real, name))
            for name in reversed(listing.folders)
        ]


class _Listing:
    """The content of one folder, sorted by name.

    Attributes:
        images: Paths of images, and an `Unreadable` for what cannot be read.
        folders: Names of folders.
        links: Paths of links to folders.
    """

    def __init__(self, folder: str, left_out: LeftOut) -> None:
        self.images: list[str] = []
        self.folders: list[str] = []
        self.links: list[str] = []
        self._left_out = left_out
        try:
            # Strings, not Paths: a hundred thousand of those cost seconds.
            with os.scandir(folder) as entries:
                for entry in entries:
                    self._add(entry)
        except OSError as error:  # the folder was removed meanwhile, or the disk fails
            self.images.append(_unreadable(folder, error))
        for found in (self.images, self.folders, self.links):
            found.sort()

    def _add(self, entry: os.DirEntry[str]) -> None:
        if entry.name.startswith("."):
            self._left_out.hidden += 1
            return
        try:
            is_link = entry.is_symlink()
            if is_link:
                entry.stat()  # raises for a link that leads nowhere; is_dir() would be False
            is_folder = entry.is_dir()
        except OSError as error:
            self.images.append(_unreadable(entry.path, error))
            return
        if is_folder and is_link:
            self.links.append(entry.path)
        elif is_folder:
            self.folders.append(entry.name)
        elif has_image_suffix(entry.name):
            self.images.append(entry.path)
        else:
            self._left_out.add(entry.name)


def objects_below(url: str, left_out: LeftOut) -> Iterator[str]:
    """The URLs of the images in an object store whose names begin with a path.

    Args:
        url: The path, for example `s3://BUCKET/PATH/`.
        left_out: Counts what is left out.

    Raises:
        ObjectStoreError: The store cannot be listed.
    """
    from seresnext101_triton.client.objects import listed

    root, found = url.rstrip("/"), False
    for name in listed(url):
        if any(part.startswith(".") for part in name.split("/")):
            left_out.hidden += 1
        elif has_image_suffix(name):
            found = True
            yield f"{root}/{name}"
        else:
            left_out.add(name.rpartition("/")[2])
    if not found:
        yield Unreadable(url, f"{url} holds no image: no object below it is named like a picture")


def _expand(name: str, left_out: LeftOut) -> Iterator[str]:
    # os.path and not Path, whose methods raise for a name that is too long.
    if is_object(name) and not has_image_suffix(name):
        yield from objects_below(name, left_out)
        return
    if name == STANDARD_INPUT or is_url(name):
        yield name
        return
    if name.startswith("~") and not os.path.lexists(name):
        name = os.path.expanduser(name)
    if os.path.isdir(name):
        before = left_out.files.total()
        images = walk(name, left_out)
        if first := next(images, ""):
            yield first
            yield from images
        else:
            others = _count(left_out.files.total() - before, "file", "files")
            yield Unreadable(
                name,
                f"{name} holds no image: {others} in it, and none named like a picture (.jpg, .png "
                "and others)",
            )
    elif glob.has_magic(name) and not os.path.lexists(name):
        yield from _matching(name, left_out)
    elif name:
        yield name
    else:
        yield Unreadable(name, "a name is empty: name a file, a folder, a pattern or a URL")


def _matching(pattern: str, left_out: LeftOut) -> Iterator[str]:
    try:
        found = sorted(glob.glob(pattern, recursive=True))
    except (OSError, ValueError, RecursionError, re.error) as error:
        yield Unreadable(pattern, f"{pattern} cannot be searched for: {error}")
        return
    within = pattern.endswith(("**", "**/*"))  # it matches what is in a folder as well
    folders = {path for path in found if os.path.isdir(path)}
    if not found or (within and len(found) == len(folders)):
        yield Unreadable(pattern, f"nothing matches {pattern}")
    for path in found:
        if path == STANDARD_INPUT:  # a file of this name
            yield f"./{path}"
        elif path not in folders:
            yield path
        elif not within:
            yield from walk(path, left_out)


def _unreadable(path: str, error: OSError) -> Unreadable:
    kind = "is a link that cannot be followed" if os.path.islink(path) else "cannot be read"
    return Unreadable(path, f"{path} {kind}: {error.strerror or error}")


def _count(count: int, one: str, many: str) -> str:
    return f"{count or 'no'} {one if count == 1 else many}"
