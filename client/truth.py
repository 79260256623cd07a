"""Reads images with known classes: from a folder of class folders, or from a CSV file."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from seresnext101_triton.client.errors import ClientError
from seresnext101_triton.client.sources import LeftOut, has_image_suffix, is_url, walk
from seresnext101_triton.client.text import printable

_INDEX = re.compile("[0-9]{1,9}")  # int() and isdigit() accept digits of other scripts
_LONGEST = 1 << 16  # characters of a line; no path of Linux has more than 4096
_COLUMNS = "an image and a class index"


@dataclass
class Notes:
    """What a person should know about the source of the classes.

    Attributes:
        left_out: Files in class folders that are not taken as images.
        outside: Images beside the class folders, which have no class.
        repeated: Lines of a CSV file that repeat an earlier line.
    """

    left_out: LeftOut = field(default_factory=LeftOut)
    outside: int = 0
    repeated: int = 0

    def __str__(self) -> str:
        parts = [str(self.left_out)] if str(self.left_out) else []
        if self.outside:
            parts.append(f"{self.outside} pictures beside the class folders")
        if self.repeated:
            parts.append(f"{self.repeated} lines that repeat an image with the same class")
        return ", ".join(parts)


def read_truth(source: Path, classes: int, notes: Notes | None = None) -> dict[str, int]:
    """Read images and the index of their class.

    Args:
        source: A folder with one folder for each class, or a CSV file with an image and a class
            index in each line. Paths in the file are relative to the file, and it may hold URLs.
            Class folders are named by their class index; or there is one for each class of the
            model, in the order of the classes (ImageNet's WordNet ids).
        classes: How many classes the model has.
        notes: Counts what is left out.

    Returns:
        Each image as a path or a URL, or an `Unreadable` for a folder that cannot be read.

    Raises:
        ClientError: The source is neither, contradicts itself, or names a class that the model
            does not have.
    """
    notes = notes or Notes()
    truth = (
        _of_folders(source, classes, notes)
        if os.path.isdir(source)
        else _of_csv(source, classes, notes)
    )
    if not truth:
        raise ClientError(f"{source} holds no image with a class")
    return truth


def _of_folders(root: Path, classes: int, notes: Notes) -> dict[str, int]:
    folders = _class_folders(root, notes)
    if all(_INDEX.fullmatch(folder) for folder in folders):
        indices = [int(folder) for folder in folders]
    elif len(folders) == classes:
        indices = list(range(classes))
    else:
        raise ClientError(
            f"{root} has {len(folders)} folders, and the model {classes} classes: name each folder "
            "by its class index, or have one for every class, in their order"
        )
    truth: dict[str, int] = {}
    named: dict[int, str] = {}
    for folder, index in zip(folders, indices, strict=True):
        if (other := named.setdefault(index, folder)) != folder:
            raise ClientError(f"{root} has two folders for class {index}: {other} and {folder}")
        _check_class(index, classes, str(root))
        truth.update(dict.fromkeys(walk(str(root / folder), notes.left_out), index))
    return truth


def _class_folders(root: Path, notes: Notes) -> list[str]:
    folders = []
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    notes.left_out.hidden += 1
                elif os.path.isdir(entry.path):
                    folders.append(entry.name)
                elif has_image_suffix(entry.name):
                    notes.outside += 1
                else:
                    notes.left_out.add(entry.name)
    except OSError as error:
        raise ClientError(f"{root} cannot be read: {error.strerror or error}") from None
    return sorted(folders)


def _of_csv(path: Path, classes: int, notes: Notes) -> dict[str, int]:
    truth: dict[str, int] = {}
    lines: dict[str, int] = {}
    is_first = True
    for number, row in _rows(path):
        where = f"{path}, line {number}"
        if is_first and _is_header(row, path):
            is_first = False
            continue
        is_first = False
        image, index = _image_and_class(row, path, where)
        _check_class(index, classes, where)
        if image not in truth:
            truth[image], lines[image] = index, number
        elif truth[image] == index:
            notes.repeated += 1
        else:
            raise ClientError(
                f"{where} says class {index} of {printable(image)}, and line {lines[image]} says "
                f"class {truth[image]}"
            )
    return truth


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the number of the line that it ends on."""
    try:
        # Paths of Linux are bytes. Python keeps those that are not UTF-8 as surrogates.
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(_lines(file, path), strict=True)
            try:
                for row in reader:
                    if any(cell.strip() for cell in row):
                        yield reader.line_num, row
            except csv.Error as error:
                raise ClientError(f"{path}, line {reader.line_num}: no CSV, {error}") from None
    except OSError as error:
        raise ClientError(f"{path} cannot be read: {error.strerror or error}") from None


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    number = 0
    while line := file.readline(_LONGEST):
        number += 1
        if len(line) == _LONGEST:
            raise ClientError(
                f"{path}, line {number} is longer than {_LONGEST} characters: expected {_COLUMNS}"
            )
        if "\0" in line:
            raise ClientError(
                f"{path}, line {number} holds a zero byte: the file is no CSV in UTF-8 (UTF-16, "
                "perhaps: save it as UTF-8)"
            )
        yield line


def _is_header(row: list[str], path: Path) -> bool:
    """Whether the first row names columns.

    Then it holds no number, and its first column is not the name of an image.
    """
    if len(row) != 2 or any(character.isnumeric() for character in row[1]):
        return False
    name = row[0].strip()
    is_image = is_url(name) or has_image_suffix(name) or os.path.lexists(path.parent / name)
    return not is_image


def _image_and_class(row: list[str], path: Path, where: str) -> tuple[str, int]:
    found = printable(",".join(row))[:200]
    if len(row) != 2:
        separator = next((sign for sign in ";\t|" if len(row) == 1 and sign in row[0]), None)
        advice = ""
        if separator:
            advice = f"; divide the columns by a comma, not by {separator!r}"
        elif len(row) > 2:
            advice = "; a name that holds a comma stands in quotes"
        raise ClientError(f"{where}: expected {_COLUMNS}, found {found!r}{advice}")
    name, index = row[0], row[1].strip()
    if not name.strip() or not _INDEX.fullmatch(index):
        raise ClientError(f"{where}: expected {_COLUMNS}, found {found!r}")
    if is_url(name.strip()):
        return name.strip(), int(index)
    image = path.parent / name
    if name != name.strip() and not os.path.lexists(image):
        image = path.parent / name.strip()
    return str(image), int(index)


def _check_class(index: int, classes: int, where: str) -> None:
    if not 0 <= index < classes:
        raise ClientError(
            f"{where} names class {index}, and the model has the classes 0 to {classes - 1}"
        )
