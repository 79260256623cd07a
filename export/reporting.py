"""What a person sees while an export runs: one line for each step on standard error.

The line says how long the step took.
"""

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

from seresnext101_triton.client import timings
from seresnext101_triton.export import interruption


class Reporter:
    """Writes steps and progress bars to standard error.

    Args:
        quiet: Write nothing.
        reword: What every line goes through, for example to name parameters as the command line
            does.
    """

    def __init__(self, *, quiet: bool = False, reword: Callable[[str], str] = str) -> None:
        self._reword = reword
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)

    def note(self, text: str, style: str | None = None) -> None:
        """Write one line."""
        self._console.print(self._reword(text), style=style, markup=False)

    def table(self, table: Table) -> None:
        """Write a table."""
        self._console.print(table, soft_wrap=False)

    @contextmanager
    def step(self, label: str) -> Iterator[None]:
        """Show that something is being done, and afterwards how long it took.

        Raises:
            KeyboardInterrupt: A signal came before or during the step, and a library swallowed it.
        """
        interruption.check()
        started = time.monotonic()
        with timings.part(label), self._console.status(label):
            yield
        interruption.check()
        self.note(f"  {label} ({time.monotonic() - started:.1f} s)")

    @contextmanager
    def transfer(self, label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """Show a progress bar for bytes.

        Args:
            label: What is transferred.
            total: How many bytes there are; 0 where that is unknown.
            done: How many of them are there already.

        Yields:
            A function to call with the length of every block.
        """
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(label, total=total or None, completed=done)
            yield lambda count: progress.advance(task, count)

    @contextmanager
    def phases(self) -> Iterator[Phases]:
        """Show a progress bar for each phase of a long work, which may report from any thread."""
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        ) as progress:
            yield Phases(progress)


class Phases:
    """The progress bars of the phases that are under way."""

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
