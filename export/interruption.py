"""SIGINT, SIGTERM and SIGHUP end a command with one line and code 130, wherever they arrive.

Python raises KeyboardInterrupt between any two instructions: in the middle of an import, of a
destructor, of a callback from C. The code there may swallow it, or turn it into another exception.
So a signal is noted as well as raised: whatever exception follows it is the interruption, and where
none follows, `check` raises it again.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

EXIT_CODE = 130  # what a shell reports for a command that SIGINT has ended
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# `timeout` and terminals send a signal to a process and to its group: it arrives twice.
_GRACE_S = 1.0


@dataclass
class _State:
    """What this process knows of interruptions; a process has one set of signal handlers.

    Attributes:
        since: `time.monotonic()` of the first signal.
        leaves: What an interruption at this moment leaves behind, for the message.
    """

    since: float | None = None
    leaves: str = ""


_state = _State()


def run(main: Callable[[], int], leaves: str) -> int:
    """Run a command as the only work of this process.

    Afterwards signals are ignored, because the interpreter is about to end.

    Args:
        main: The command. It returns the exit code.
        leaves: What an interruption leaves behind until `main` calls `leaves_behind` with something
            else.

    Returns:
        The exit code of `main`, or 130 where a signal interrupted it. A signal that the process was
        started to ignore stays ignored.
    """
    _state.leaves = leaves
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    _silence_what_follows()
    try:
        try:
            for number in heeded:
                signal.signal(number, _interrupt)
            return main()
        finally:
            for number in heeded:
                signal.signal(number, signal.SIG_IGN)
    except BaseException:
        if _state.since is None:
            raise
        _report()
        return EXIT_CODE


def _silence_what_follows() -> None:
    """After a signal, print no exception that other code would print and drop.

    Destructors do so through the hook for unraisable exceptions, C extensions through PyErr_Print.
    """
    unraisable, printed = sys.unraisablehook, sys.excepthook
    sys.unraisablehook = lambda report: unraisable(report) if _state.since is None else None
    sys.excepthook = lambda *exception: printed(*exception) if _state.since is None else None


def check() -> None:
    """Raise KeyboardInterrupt if a signal has arrived before.

    It is for the case that other code has swallowed the first KeyboardInterrupt.
    """
    if _state.since is not None:
        raise KeyboardInterrupt


def leaves_behind(text: str) -> None:
    """Say what an interruption leaves behind from now on."""
    _state.leaves = text


@contextmanager
def held_back() -> Iterator[None]:
    """Hold signals back until the end of a few steps that belong together.

    It holds back whatever handlers the process has, this module's or others, and hands a signal to
    them afterwards. In a thread other than the main one it does nothing: Python runs no handler
    there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    handlers = {
        number: handler
        for number in _SIGNALS
        if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)
    }
    try:
        for number in handlers:
            signal.signal(number, lambda received, _frame: waiting.append(received))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt for the first signal.

    A signal that comes a second later or more ends the process at once.
    """
    now = time.monotonic()
    if _state.since is None:
        _state.since = now
        raise KeyboardInterrupt
    if now - _state.since > _GRACE_S:
        _report()
        os._exit(EXIT_CODE)


def _report() -> None:
    with suppress(OSError):
        os.write(2, f"interrupted; {_state.leaves}\n".encode())
