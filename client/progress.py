"""A progress bar on standard error, for long work in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_FEWEST_IMAGES = 32  # for less work no bar is shown


@contextmanager
def progress(count: Callable[[], int]) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of images that have been answered.

    No run fails because its progress cannot be shown.

    Args:
        count: Counts all images. It is called only if a person can see the bar.
    """
    total = _count_or_zero(count) if sys.stderr.isatty() else 0
    if total < _FEWEST_IMAGES:
        yield lambda _images: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    rate = TextColumn("{task.fields[rate]}")
    columns = (BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("", total=total, rate="")

    def advance(images: int) -> None:
        with suppress(OSError, ValueError):  # the terminal was closed
            bar.advance(task, images)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.0f} images/s" if speed else "")

    with suppress(OSError, ValueError):
        bar.start()
    try:
        yield advance
    finally:
        with suppress(OSError, ValueError):
            bar.stop()


def _count_or_zero(count: Callable[[], int]) -> int:
    try:
        return count()
    except Exception:  # noqa: BLE001  (the run itself meets the same error and reports it)
        return 0
