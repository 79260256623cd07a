"""Where the time of a command goes, for its option `--timings`.

A part of the time is a block: `with part("connecting"):`. Outside of `measured`, nothing is
measured, and a block costs nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

START, OTHER = "starting Python, reading the options", "all else"


class Timings:
    """The parts of one command's time, each with its seconds, in the order in which they began.

    In the thread that makes this object, a part within another one is not counted in the outer one.
    So its parts, with `OTHER` for what is in no block, sum up to the whole time.

    Args:
        say: A function that is called with each line of the report.

    Attributes:
        parts: The parts in that thread. The first is the processor time of this process so far.
        beside: The parts in other threads and processes, which ran at the same time.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.parts = {START: time.process_time()}
        self.beside: dict[str, float] = {}
        self._thread, self._lock = threading.get_ident(), threading.Lock()
        self._part, self._since = OTHER, time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of a block."""
        if threading.get_ident() == self._thread:
            outer = self._enter(name)
            try:
                yield
            finally:
                self._enter(outer)
            return
        since = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - since)

    def add(self, name: str, seconds: float) -> None:
        """Count what ran beside the thread that made this object."""
        with self._lock:
            self.beside[name] = self.beside.get(name, 0.0) + seconds

    @property
    def total(self) -> float:
        """The whole time until now, in seconds. The parts are brought up to date."""
        self._enter(self._part)
        self.parts[OTHER] = self.parts.pop(OTHER)  # the last one
        return sum(self.parts.values())

    def lines(self) -> Iterator[str]:
        """The times until now, for people."""
        total = self.total
        yield f"{total:8.3f} s in all:"
        for name, seconds in self.parts.items():
            yield f"{seconds:8.3f} s {seconds / total:4.0%}  {name}"
        if self.beside:
            yield "at the same time, in other threads and processes:"
        for name, seconds in self.beside.items():
            yield f"{seconds:8.3f} s       {name}"

    def _enter(self, name: str) -> str:
        """Begin a part in place of the one that runs, which is returned."""
        now, left = time.perf_counter(), self._part
        self.parts[left] = self.parts.get(left, 0.0) + now - self._since
        self.parts.setdefault(name, 0.0)
        self._part, self._since = name, now
        return left


_running: Timings | None = None


@contextmanager
def measured(wanted: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Measure the parts of a block, if that is wanted, and report them at its end."""
    global _running
    _running = Timings(say) if wanted else None
    try:
        yield
    finally:
        report()


def report() -> None:
    """Write the times, if they are measured, and measure no more."""
    global _running
    timings, _running = _running, None
    if timings:
        for line in timings.lines():
            timings.say(line)


def part(name: str) -> AbstractContextManager[None]:
    """A block that is a part of the time. Any thread may enter it."""
    return _running.part(name) if _running else nullcontext()


def add(name: str, seconds: float) -> None:
    """Count what ran at the same time, in another process."""
    if _running:
        _running.add(name, seconds)


def to_json() -> dict[str, Any]:
    """The entry `timings` of a JSON document, in seconds; nothing if they are not measured."""
    if not _running:
        return {}
    total = _running.total
    return {"timings": {"total": total, "parts": _running.parts, "beside": _running.beside}}
