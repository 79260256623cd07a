"""Files of results: one record in each line, as JSON, and a CSV table for spreadsheets."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from seresnext101_triton.perf.errors import ResultsError
from seresnext101_triton.perf.records import RECORD_TYPES, SCHEMA, Circumstances, Record

_Stored = TypeVar("_Stored", bound=Circumstances)
_ADAPTERS: dict[str, TypeAdapter[Record]] = {
    name: TypeAdapter(each) for name, each in RECORD_TYPES.items()
}


def append(path: Path, record: _Stored) -> _Stored:
    """Add one record to a file as a whole line, and return the record.

    Raises:
        ResultsError: The file cannot be written. All earlier lines are complete.
    """
    line = (json.dumps(record.document(), ensure_ascii=False) + "\n").encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
        before = len(whole[0]) + len(whole[1])  # without a last line that a kill cut off
        # The file has no buffer: what a buffer could not write, it would write again on `truncate`.
        with path.open("ab", buffering=0) as file:
            try:
                file.truncate(before)
                while line:
                    line = line[file.write(line) :]
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise ResultsError(
            f"{path} cannot be written: {error.strerror}. What it holds is whole; "
            "run again to go on"
        ) from None
    return record


def check_writable(path: Path, option: str = "results") -> None:
    """Find out before something is measured whether its results can be written.

    Args:
        path: The file.
        option: The option that names it.

    Raises:
        ResultsError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise ResultsError(
            f"{path} cannot be written: {error.strerror}. Name another file with `{option}`"
        ) from None


def read(path: Path, *, may_be_absent: bool = False) -> list[Record]:
    """Read all records of a file.

    Args:
        path: The file.
        may_be_absent: A file that does not exist has no records.

    Returns:
        The records in their order. A last line that a kill cut off is left out.

    Raises:
        ResultsError: The file holds something else, or results of another schema, or it does not
            exist.
    """
    if may_be_absent and not path.exists():
        return []
    try:
        # Bytes, because a kill can cut a character in two, and text has other line breaks too.
        *lines, _cut = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise ResultsError(
            f"{path} does not exist: measure first, with `python -m perf sweep`, or name another "
            "file"
        ) from None
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror}") from None
    try:
        documents = [json.loads(line) for line in lines]
        kinds = [RECORD_TYPES[document["kind"]] for document in documents]
        current = all(document["schema"] == SCHEMA for document in documents)
    except (ValueError, KeyError, TypeError):
        current = False
    if not current:
        raise ResultsError(
            f"{path} does not hold results of schema {SCHEMA}: name another file with `results`"
        )
    return [_record(path, kind, document) for kind, document in zip(kinds, documents, strict=True)]


def _record(path: Path, kind: type[Record], document: dict[str, Any]) -> Record:
    try:
        return _ADAPTERS[kind.kind].validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise ResultsError(
            f"{path} holds a {kind.title} that cannot be read ({reason}): "
            f"{'sweep' if kind.kind == 'point' else 'measure'} into another file"
        ) from None


def write_csv(documents: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the measured points as a table, with a column for each value that any point has.

    Args:
        documents: Records as `Circumstances.document` gives them. Other kinds are left out.
        path: The file to write. It is not written if there are no points.

    Raises:
        ResultsError: The file cannot be written.
    """
    points = [_flat(document) for document in documents if document["kind"] == "point"]
    if not points:
        return
    columns = list(dict.fromkeys(name for point in points for name in point))
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=columns)
            writer.writeheader()
            writer.writerows(points)
    except OSError as error:
        raise ResultsError(f"{path} cannot be written: {error.strerror}") from None


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
