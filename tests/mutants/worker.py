"""Runs tests in a copy of the project, in children of a process with the slow imports already done.

`tests.mutants.running` starts it with the copy as its working directory. It reads one JSON object
a line, and answers each with one.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # of linux/prctl.h
_COMMON = ["-q", "-x", "-p", "no:cacheprovider", "--durations=0", "--durations-min=9999", "--tb=no"]


def main() -> None:
    """Answer until the input ends."""
    # What a test starts and leaves behind becomes a child of this process, which ends it.
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, _end)
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    for name in sys.argv[1:]:  # what takes long to import
        with suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        outcome = (
            _in_child(partial(_watch, order), order["limit_s"])
            if "watch" in order
            else _mutated(order)
        )
        print(json.dumps(outcome), flush=True)


def _mutated(order: dict[str, Any]) -> dict[str, Any]:
    path = Path(order["file"])
    whole = path.read_text(encoding="utf-8")
    path.write_text(order["code"], encoding="utf-8")
    begun = Path(f"{Path.cwd()}.begun")
    begun.write_text("")

    class Begun:
        def pytest_runtest_logstart(self, nodeid: str) -> None:
            begun.write_text(nodeid)

    def run() -> int:
        return int(pytest.main([*_COMMON, *_basetemp(), *order["tests"]], plugins=[Begun()]))

    try:
        return _in_child(run, order["limit_s"]) | {"last": begun.read_text()}
    finally:
        path.write_text(whole, encoding="utf-8")


def _watch(order: dict[str, Any]) -> int:
    from tests.mutants.reach import Watch

    watch = Watch(Path.cwd(), order["watch"], Path(_temporary("lines")))
    watch.start()
    pytest.main(["-q", "-p", "no:cacheprovider", *_basetemp(), *order["tests"]], plugins=[watch])
    watch.save(Path(order["to"]))
    return 0


def _basetemp() -> list[str]:
    return [f"--basetemp={_temporary('pytest')}"]


def _temporary(name: str) -> str:
    """An empty place beside the copy."""
    path = Path(f"{Path.cwd()}.tmp", name)
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(exist_ok=True)
    return str(path)


def _in_child(run: Callable[[], int], limit_s: float) -> dict[str, Any]:
    """Run in a child, and end whatever it has left.

    Returns:
        `code`, the child's exit code, negative for a signal, or None where the time limit ended it;
        and `seconds`.
    """
    started = time.monotonic()
    pid = os.fork()
    if not pid:
        os.setsid()
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        for ending in (signal.SIGINT, signal.SIGTERM):
            signal.signal(ending, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDONLY)
        log = os.open(f"{Path.cwd()}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        result = 3
        try:
            result = run()
        except BaseException:
            traceback.print_exc()
        os._exit(result)
    code: int | None = None
    while code is None and time.monotonic() - started < limit_s:
        # Wait for any child: a process that a test left behind would stay a zombie, and another
        # test may wait for its end.
        done, status = os.waitpid(-1, os.WNOHANG)
        if done == pid:
            code = os.waitstatus_to_exitcode(status)
        elif not done:
            time.sleep(0.02)
    _end_all()
    return {"code": code, "seconds": time.monotonic() - started}


def _end(number: int, _: object) -> None:
    """What a test runs does not outlive this process."""
    _end_all()
    os._exit(128 + number)


def _end_all() -> None:
    while left := psutil.Process().children(recursive=True):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, 0)[0]:
                pass


if __name__ == "__main__":
    main()
