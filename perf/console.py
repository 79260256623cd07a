"""What commands print: tables and JSON on standard output, progress on standard error."""

from __future__ import annotations

import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seresnext101_triton.client.output import standard_output
from seresnext101_triton.client.text import json_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

    from seresnext101_triton.perf.tables import Table

_WIDTH = 200  # columns of a table that is not written to a terminal
_WIDEST = 10_000


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


def show(text: str) -> None:
    """Print lines of text.

    Raises:
        ReaderGone: The reader of standard output has ended.
        OutputError: Standard output cannot be written.
    """
    with standard_output() as file:
        file.write(f"{text}\n")


def print_json(document: Any) -> None:
    """Print one JSON document. The errors are those of `show`."""
    show(json_text(document, indent=2))


def print_table(table: Table, title: str = "") -> None:
    """Print a table, under its title if there is one. The errors are those of `show`.

    No figure is cut: the terminal breaks the lines of a table that is too wide for it.
    """
    from rich.console import Console

    with standard_output() as file:
        console = Console(file=file, highlight=False, width=None if file.isatty() else _WIDTH)
        if title:
            console.print(title, markup=False, soft_wrap=True)
        drawn = _drawn(table)
        if _width(console, drawn) > console.width:
            drawn = _drawn(table, is_narrow=True)
        console.width = max(console.width, _width(console, drawn))
        console.print(drawn)


def _drawn(table: Table, *, is_narrow: bool = False) -> RichTable:
    """A table for a terminal, whose header takes several lines in a narrow one."""
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=None, pad_edge=False)
    for index, name in enumerate(table.header):
        if is_narrow and name:
            width = max((len(row[index]) for row in table.rows), default=0)
            name = textwrap.fill(name, max(width, 1), break_long_words=False)
        drawn.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*map(Text, row))
    return drawn


def _width(console: Console, drawn: RichTable) -> int:
    """The columns that a table needs."""
    return console.measure(drawn, options=console.options.update(width=_WIDEST)).maximum


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
