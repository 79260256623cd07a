"""Texts from other people's files, fit for a terminal and for one line."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from seresnext101_triton.client.text import visible

_LONGEST = 200
_MOST = 2000


def brief(text: object) -> str:
    """A name or a message on one line, cut where it is very long.

    Of a key that is neither text nor a number, it is the type.
    """
    line = (
        str(text)
        if isinstance(text, str | int | float | bool | None)
        else f"a {type(text).__name__}"
    )
    return visible(line if len(line) <= _LONGEST else f"{line[:_LONGEST]}...")


def listed(names: Iterable[object], most: int = 20) -> str:
    """Names behind one another, and how many more there are."""
    shown = list(names)
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(map(brief, shown[:most])) + more


def compact(keys: Iterable[str]) -> list[str]:
    """Many tensor names in few lines, nothing left out: `layers.0.{0-2}.bn1.{bias,weight}`.

    Of more than 2000 names only the first 2000 are written out, and the number of the others.
    """
    names = sorted(keys)
    rows = [tuple(brief(key).split(".")) for key in names[:_MOST]]
    for position in reversed(range(max(map(len, rows), default=0))):

        def rest(
            row: tuple[str, ...], position: int = position
        ) -> tuple[tuple[str, ...], tuple[str, ...]]:
            return row[:position], row[position + 1 :]

        long = [row for row in rows if len(row) > position]
        merged = [row for row in rows if len(row) <= position]
        for (before, after), group in groupby(sorted(long, key=rest), key=rest):
            merged.append((*before, _join(row[position] for row in group), *after))
        rows = merged
    lines = sorted(".".join(row) for row in rows)
    return [*lines, f"and {len(names) - _MOST} more"] if len(names) > _MOST else lines


def _join(parts: Iterable[str]) -> str:
    names = sorted(set(parts))
    if len(names) == 1:
        return names[0]
    if not all(name.isascii() and name.isdigit() for name in names):
        return f"{{{','.join(names)}}}"
    numbers = sorted(map(int, names))
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return (
        "{"
        + ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
        + "}"
    )
