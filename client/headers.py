"""Reads the headers of image files before Pillow does, with bounded memory and time.

Pillow keeps every segment, chunk and tag of a file as Python objects, and the tags of a TIFF may
share the same bytes, so that a file of one megabyte can take sixty gigabytes before its first
pixel. The limits here are far above what cameras and programs write.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from seresnext101_triton.client.errors import ImageError

ORIENTATION = 0x0112
_SHORT, _LONG = 3, 4
# Bytes of one value of each type, from type 1 on (TIFF 6.0, BigTIFF). Types 14 and 15 do not exist.
_UNIT_BYTES = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8), start=1))
# Types whose values Pillow keeps as bytes. Each value of another type becomes a Python object.
_BYTES = (1, 2, 6, 7)
# Tags that point to further tags: Exif, GPS, Interoperability.
_FOLDERS = (0x8769, 0x8825, 0xA005)
_MOST_TAGS = 4096
# Values of one tag. Each strip or tile has one, of which Pillow makes an object of some 400 bytes.
_MOST_VALUES = 1 << 17
# Segments of a JPEG before its pixels. Pillow reads those of one profile, each of up to 64 KiB.
_MOST_SEGMENTS = 4096
_MOST_SCANS = 200  # of a JPEG; libjpeg writes ten into a progressive one
_MOST_CHUNKS = 1 << 17  # of a PNG; libpng writes 8 KiB of pixels into each
_MOST_OTHER_CHUNKS = 4096  # chunks without pixels
# Markers that never occur within the compressed pixels.
_MARKER = re.compile(rb"\xff[\xd9\xda]")
_EXIF = b"Exif\0\0"
_XMP = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])[\"<]")


@dataclass(frozen=True)
class _Tag:
    """One entry of a TIFF directory.

    Attributes:
        number: Number of the tag.
        kind: TIFF's number of the type of its values.
        count: How many values it claims to have.
        value: The first bytes of its values, or their position, as an integer in the file's byte
            order.
        first: The first value, if its type is SHORT or LONG and the entry itself holds it.
    """

    number: int
    kind: int
    count: int
    value: int
    first: int | None


def check(content: bytes, name: str) -> None:
    """Refuse a file whose headers would take more memory or time than its pixels.

    Raises:
        ImageError: The file claims more tags, segments, chunks or values than real images have.
    """
    if content.startswith(b"\xff\xd8"):
        _check_jpeg(content, name)
    elif content.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(content, name)
    elif content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        _check_tags(content, name)


def orientation_of_exif(exif: bytes) -> int:
    """The orientation of an EXIF block, 1 to 8; 1 if it has none, or one that does not exist.

    Only this tag is read, so that damage to other tags does no harm.
    """
    while exif.startswith(_EXIF):
        exif = exif[len(_EXIF) :]
    for tag in _tags(exif):
        if tag.number == ORIENTATION:
            return (
                tag.first if tag.count == 1 and tag.first is not None and 1 <= tag.first <= 8 else 1
            )
    return 1


def orientation_of_xmp(xmp: bytes) -> int:
    """The orientation of an XMP block, 1 to 8; 1 if it has none."""
    found = _XMP.search(xmp)
    return int(found[1]) if found else 1


def _tags(data: bytes, at: int | None = None) -> Iterator[_Tag]:
    """The entries of one directory of a TIFF structure.

    Args:
        data: The structure. It may end before its entries do.
        at: Position of the directory; None means the first directory.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return
    big = data[2:4] in (b"+\0", b"\0+")
    head, entry, word = ("Q", "HHQ", "Q") if big else ("H", "HHL", "L")
    pointer, size = struct.calcsize(f"={word}"), struct.calcsize(f"={entry}{word}")
    try:
        if at is None:
            (at,) = struct.unpack_from(f"{order}{word}", data, 8 if big else 4)
        (count,) = struct.unpack_from(f"{order}{head}", data, at)
        at += struct.calcsize(f"={head}")
        for start in range(at, at + min(count, _MOST_TAGS + 1) * size, size):
            number, kind, values, value = struct.unpack_from(f"{order}{entry}{word}", data, start)
            form = {_SHORT: "H", _LONG: "L"}.get(kind)
            first = (
                struct.unpack_from(f"{order}{form}", data, start + size - pointer)[0]
                if form
                else None
            )
            yield _Tag(number, kind, values, value, first)
    except (struct.error, OverflowError):  # the structure ends early
        return


def _check_tags(data: bytes, name: str, at: int | None = None) -> None:
    total, folders = 0, []
    for number, tag in enumerate(_tags(data, at)):
        size = tag.count * _UNIT_BYTES.get(tag.kind, 0)
        if size <= len(data):  # Pillow skips a tag whose values are missing
            total += size
        if number >= _MOST_TAGS or total > len(data) + 8 * _MOST_TAGS:
            raise ImageError(
                f"{name} is refused: its tags claim more bytes than there are, which may be a "
                "decompression bomb"
            )
        if size <= len(data) and tag.count > _MOST_VALUES and tag.kind not in _BYTES:
            raise ImageError(
                f"{name} is refused: its tag {tag.number} has {tag.count} values, more than "
                f"{_MOST_VALUES}"
            )
        if tag.number in _FOLDERS and at is None:
            folders.append(tag.value)
    for folder in folders[: len(_FOLDERS)]:
        _check_tags(data, name, folder)


def _check_jpeg(content: bytes, name: str) -> None:
    exif, at, channels, progressive = b"", 2, 0, False
    for _ in range(_MOST_SEGMENTS):
        at = content.find(b"\xff", at)  # Pillow skips what is before the next marker, too
        if at < 0 or at + 5 > len(content):
            break
        marker = content[at + 1]
        if marker == 0xD9:  # the end of the image
            break
        if marker == 0xDA:  # the pixels
            # There are several scans if the first one does not hold all channels.
            if progressive or content[at + 4] < channels:
                _check_scans(content, at, name)
            break
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # markers without a segment
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        segment = content[at + 4 : at + 2 + max(length, 2)]
        if marker == 0xE1 and segment.startswith(_EXIF):
            exif += segment[len(_EXIF) :]  # Pillow joins the segments
        elif marker == 0xE2 and segment.startswith(b"MPF\0"):
            _check_tags(segment[4:], name)
        elif _is_frame(marker) and len(segment) > 5:
            channels, progressive = segment[5], marker in (0xC2, 0xC6, 0xCA, 0xCE)
        at += 2 + max(length, 2)
    else:
        raise ImageError(
            f"{name} is refused: it has more than {_MOST_SEGMENTS} segments before its pixels"
        )
    _check_tags(exif, name)


def _is_frame(marker: int) -> bool:
    """Whether a marker begins the header that says how the pixels are coded."""
    return 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)


def _check_scans(content: bytes, at: int, name: str) -> None:
    """Refuse a JPEG with too many scans.

    A scan can be as short as ten bytes, and Pillow decodes all pixels again for each.
    """
    scans = 0
    for marker in _MARKER.finditer(content, at):
        if marker[0] == b"\xff\xd9":  # what follows the end is not part of the image
            return
        scans += marker[0] == b"\xff\xda"
        if scans > _MOST_SCANS:
            raise ImageError(
                f"{name} is refused: it has more than {_MOST_SCANS} scans, which may be a "
                "decompression bomb"
            )


def _check_png(content: bytes, name: str) -> None:
    chunks = others = 0
    at = 8
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">L4s", content, at)
        chunks += 1
        others += kind not in (b"IDAT", b"fdAT")
        if chunks > _MOST_CHUNKS or others > _MOST_OTHER_CHUNKS:
            raise ImageError(
                f"{name} is refused: it has more than {min(chunks, _MOST_CHUNKS)} chunks"
            )
        at += 12 + length
