"""What commands print: tables and JSON on standard output, progress on standard error."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seresnext101_triton.perf.tables import Table

_WIDTH = 200  # columns of a table that is not written to a terminal


@dataclass(frozen=True)
class Progress:
    """Two functions that a measurement calls while it works.

    Attributes:
        advance: Counts one step as done.
        note: Shows a line of text.
    """

    advance: Callable[[], object]
    note: Callable[[str], object]


def note(text: str) -> None:
    """Print one line on standard error."""
    print(text, file=sys.stderr)


SILENT = Progress(advance=lambda: None, note=lambda text: text)


def print_json(document: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(document, indent=2))


def print_table(table: Table, title: str = "") -> None:
    """Print a table, under its title if there is one."""
    from rich.console import Console
    from rich.table import Table as RichTable

    drawn = RichTable(box=None, pad_edge=False)
    for index, column in enumerate(table.header):
        drawn.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*row)
    if title:
        print(title)
    Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH).print(drawn)


@contextmanager
def progress(steps: int) -> Iterator[Progress]:
    """Show a progress bar with the remaining time if standard error is a terminal.

    If it is not, only the notes are printed, one line each.

    Args:
        steps: The number of times that `Progress.advance` will be called.
    """
    if not sys.stderr.isatty():
        yield Progress(SILENT.advance, note)
        return
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=steps)
        yield Progress(
            lambda: bar.advance(task),
            lambda text: bar.console.print(text, highlight=False),
        )


def command_line() -> str:
    """The command that this process runs, as a shell takes it."""
    return shlex.join(["python", "-m", "perf", *sys.argv[1:]])
