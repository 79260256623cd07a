"""Runs a command as the only work of a process: standard streams, signals, and the exit."""

from __future__ import annotations

import atexit
import codecs
import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130  # as a shell reports a program that Ctrl-C has ended
# For threads that read a file or wait for a server, after the command has returned.
_GRACE_S = 1.0
# For a command after the first signal; it must write what it has in memory within this time.
_GRACE_TO_WRITE_S = 5.0
_IN_ASCII = "seresnext101-ascii"  # the name of `_in_ascii` for codecs
_ASCII = str.maketrans({"–": "-", "·": "-", "…": "...", "█": "#"})
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(main: Callable[[], int]) -> NoReturn:
    """Run a command, and end the process with its exit code.

    The first SIGINT, SIGTERM or SIGHUP raises KeyboardInterrupt in the command. The second one ends
    the process at once. After the command, threads that hang in a file, a download or a request
    have one second to end.
    """
    open_standard_streams()
    _handle_signals()
    try:
        code = main()
    except SystemExit as end:  # argparse's
        code = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:  # before or after the command handles it
        code = INTERRUPTED
    _leave(code)


def end_at_once(code: int) -> NoReturn:
    """End the process without waiting for its threads and without the destructors of C++ libraries.

    Such a destructor aborts the process if a thread of its library still runs.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError, ValueError):  # nobody reads the stream
            stream.flush()
    os._exit(code)


def open_standard_streams() -> None:
    """Make the standard streams of a command take any text, whatever they are.

    A closed stream becomes /dev/null: otherwise the next file would take its place. What a terminal
    without UTF-8 does not have is written in ASCII.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    codecs.register_error(_IN_ASCII, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_IN_ASCII)


def _in_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    """The handler of encoding errors: signs in ASCII, and other characters as escapes."""
    if isinstance(error, UnicodeEncodeError):
        text = error.object[error.start : error.end].translate(_ASCII)
        return text.encode("ascii", "backslashreplace").decode(), error.end
    raise error


def _handle_signals() -> None:
    """Raise KeyboardInterrupt in the main thread.

    Another thread ends the process if the main thread does not end it.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_end_after_signal, args=(reader,), daemon=True).start()
    interrupt_on_signals()


def interrupt_on_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread.

    What is ignored stays so: nohup and shells set it for jobs in the background.
    """
    for each in _SIGNALS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # A constructor that is interrupted leaves a part of an object, whose destructor may fail, and
    # Python would print a traceback of that.
    sys.unraisablehook = lambda _report: None
    raise KeyboardInterrupt


def _end_after_signal(reader: int) -> None:
    while os.read(reader, 1)[0] not in _SIGNALS:
        pass
    select.select(
        [reader], [], [], _GRACE_TO_WRITE_S
    )  # until a second signal or the end of the time
    os._exit(INTERRUPTED)


def _leave(code: int) -> NoReturn:
    """End the process.

    Python itself would wait for every thread without a limit, and then spend a tenth of a second on
    taking all modules apart.
    """
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # the process is ending
    deadline = time.monotonic() + _GRACE_S
    others = [
        thread
        for thread in threading.enumerate()
        if thread is not threading.current_thread() and not thread.daemon
    ]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    if not any(thread.is_alive() for thread in others):
        atexit._run_exitfuncs()
    end_at_once(code)
