"""Results on disk: JSON lines of one schema, added to as they are measured, and CSV for spreadsheets."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perf.errors import ResultsError

SCHEMA = 1
Record = dict[str, Any]  # schema, kind (point, comparison, tuning), and what perf.machine.circumstances gives


def append(path: Path, kind: str, record: Record) -> Record:
    """Add one result, durably as a whole line, and return it as it is stored.

    Raises:
        ResultsError: The file cannot be written; what it holds is whole.
    """
    stored = {"schema": SCHEMA, "kind": kind, **record}
    line = json.dumps(stored, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
        before = len(whole[0]) + len(whole[1])  # without a line that a kill cut off
        with path.open("ab") as file:
            try:
                file.truncate(before)
                file.write(line.encode())
                file.flush()
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise ResultsError(f"{path} cannot be written: {error.strerror}. What it holds is whole; run again to go on") from None
    return stored


def read(path: Path) -> list[Record]:
    """All results of a file; none where there is no file. A last line that a kill cut off is left out.

    Raises:
        ResultsError: The file holds something else, or results of another schema.
    """
    if not path.exists():
        return []
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        if all(record["schema"] == SCHEMA for record in records):
            return records
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise ResultsError(f"{path} does not hold results of schema {SCHEMA}: name another file with --results")


def write_csv(records: Sequence[Record], path: Path) -> None:
    """The measured points as a table.

    Raises:
        ResultsError: It cannot be written.
    """
    points = [_flat(record) for record in records if record["kind"] == "point"]
    if not points:
        return
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for point in points for name in point)))
            writer.writeheader()
            writer.writerows(points)
    except OSError as error:
        raise ResultsError(f"{path} cannot be written: {error.strerror}") from None


def _flat(record: Record, prefix: str = "") -> Record:
    flat: Record = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
