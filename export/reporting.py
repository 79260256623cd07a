"""What a person sees while an export runs: one line per step on standard error, with the time it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table


class Reporter:
    """Writes steps and progress bars to standard error.

    Args:
        quiet: Write nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)

    def note(self, text: str, style: str | None = None) -> None:
        """Write one line."""
        self._console.print(text, style=style, markup=False)

    def table(self, table: Table) -> None:
        """Write a table."""
        self._console.print(table, soft_wrap=False)

    @contextmanager
    def step(self, label: str) -> Iterator[None]:
        """Show that something is being done, and how long it took once it is."""
        started = time.monotonic()
        with self._console.status(label):
            yield
        self.note(f"  {label} ({time.monotonic() - started:.1f} s)")

    @contextmanager
    def transfer(self, label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """A progress bar for bytes; yields what to call with the length of every block. A `total` of 0 is unknown."""
        columns = (TextColumn("  {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(label, total=total or None, completed=done)
            yield lambda count: progress.advance(task, count)

    @contextmanager
    def phases(self) -> Iterator[Phases]:
        """A progress bar for each phase of a long work that tells its phases as it goes, from any thread."""
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as progress:
            yield Phases(progress)


class Phases:
    """Bars that come and go."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def start(self, phase: str, steps: int) -> None:
        """Show a phase of so many steps."""
        self._tasks[phase] = self._progress.add_task(phase, total=steps)

    def step(self, phase: str, done: int) -> None:
        """Show that so many steps of it are done."""
        self._progress.update(self._tasks[phase], completed=done)

    def finish(self, phase: str) -> None:
        """Take its bar away."""
        self._progress.remove_task(self._tasks.pop(phase))
