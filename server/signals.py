"""Signals that end a server. Their handlers raise nothing, they only note the signal.

An exception that a handler raises appears wherever the program is at that moment. If that is a
callback of the garbage collector or of a library, Python prints the exception and drops it, so that
the signal is lost.
"""

from __future__ import annotations

import queue
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# What a terminal and a service manager send. `nohup` and a shell in the background have some of
# them ignored, and these stay ignored.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class EndSignals:
    """The signals that have arrived."""

    def __init__(self) -> None:
        self._arrived: queue.SimpleQueue[int] = queue.SimpleQueue()  # a handler may use it

    def wait(self, seconds: float) -> signal.Signals | None:
        """Wait for a signal. None if there is none within the time."""
        try:
            return signal.Signals(self._arrived.get(timeout=seconds))
        except queue.Empty:
            return None

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Note a signal. This is the handler."""
        self._arrived.put(number)


@contextmanager
def end_signals() -> Iterator[EndSignals]:
    """Note the signals that end a server, instead of being ended by them.

    This can be used in the main thread only.
    """
    signals = EndSignals()
    earlier = {
        number: signal.signal(number, signals.note)
        for number in _ENDING
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield signals
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
