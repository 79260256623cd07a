"""The process of a tritonserver or an Envoy: its log, its end, and what other users see of it."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

# How long Triton itself waits for requests in flight, in seconds.
EXIT_TIMEOUT_S = 10
_LOG_LINES_KEPT = 200
_PR_SET_PDEATHSIG = 1
_PARSE_ERROR = "[libprotobuf ERROR"
_SEVERE = re.compile(r"^[EF]\d{4} ")
STARTED = 19  # /proc/PID/stat, field 22: when it was started, in ticks since the boot
_ARGUMENTS_BEGIN = 45  # /proc/PID/stat, field 48, counted after the name, which is field 2


class ServerProcess:
    """A running server program.

    The kernel ends it if the thread that started it ends.

    Args:
        command: The program and its arguments.
        environment: Its environment.
        folder: Its working directory.
        lock: A descriptor that it and its stubs keep open.
        secret: A text in the arguments that other users must not read; empty if there is none.
        cpus: The logical processors on which it runs. If it is empty, those of this process.
        note: A function that is called with each line of its log that a user should see.
        verbose: Whether a user should see the whole log, not only its errors.

    Attributes:
        pid: Its process id.
        shows_errors: Whether a user should see errors in its log.
    """

    def __init__(  # noqa: PLR0913  (one argument for each independent option)
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        *,
        lock: int,
        secret: str = "",
        cpus: Collection[int] = (),
        note: Callable[[str], None],
        verbose: bool = False,
    ) -> None:
        self.shows_errors = False
        self._secret, self._note, self._verbose = secret, note, verbose
        self._log: deque[str] = deque(maxlen=_LOG_LINES_KEPT)
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C reaches only this process, which ends the server
            preexec_fn=partial(_prepare, cpus),
        )
        self.pid = self._process.pid
        self._pump = threading.Thread(target=self._pump_log, daemon=True)
        self._pump.start()

    def poll(self) -> int | None:
        """The exit code; None while the server runs."""
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait until the server ends. None if it does not within the time."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def end(self, timeout_s: float = EXIT_TIMEOUT_S + 5) -> None:
        """End the server after it has answered the requests in flight, and all its processes."""
        self.shows_errors = False
        self._process.terminate()
        self.wait(timeout_s)
        self.kill()
        self._process.wait()
        self._pump.join()

    def kill(self) -> None:
        """Kill the server and its stubs, which are in its process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def log(self) -> list[str]:
        """The last lines of the log."""
        return list(self._log)

    def severe(self) -> list[str]:
        """The errors among the last lines of the log."""
        return [line for line in self._log if _SEVERE.match(line)]

    def complaint(self, model: str) -> str:
        """What the log says against a model, or against a config that cannot be parsed."""
        severe = self.severe()
        lines = [
            line
            for line in self._log
            if line.startswith(_PARSE_ERROR) or (line in severe and f"'{model}'" in line)
        ]
        return " ".join(line.partition("] ")[2].strip('"') for line in lines)

    def settle_log(self) -> None:
        """Wait until the log of a server that has ended is complete."""
        self._pump.join(timeout=5)

    def _pump_log(self) -> None:
        """Keep the end of the log, and print the lines that a user should see."""
        assert self._process.stdout is not None
        with self._process.stdout as log:
            for number, line in enumerate(log):
                if self._secret and not number:  # the server has read its arguments
                    hide_argument(self.pid, self._secret)
                line = line.rstrip("\n")
                self._log.append(line)
                if self._verbose or (self.shows_errors and _SEVERE.match(line)):
                    self._note(line)


def hide_argument(pid: int, secret: str) -> bool:
    """Overwrite a text in the arguments of a process, which every user of the machine can read.

    Returns:
        Whether the text is gone. A kernel may forbid it to a process that may not trace its own.
    """
    folder = Path("/proc", str(pid))
    try:
        arguments = (folder / "cmdline").read_bytes()
        begin = int(stat_fields(pid)[_ARGUMENTS_BEGIN])
        with (folder / "mem").open("r+b", buffering=0) as memory:
            for found in re.finditer(re.escape(secret.encode()), arguments):
                memory.seek(begin + found.start())
                memory.write(b"*" * len(found[0]))
        return secret.encode() not in (folder / "cmdline").read_bytes()
    except (OSError, ValueError, IndexError):
        return False


def stat_fields(pid: int) -> list[str]:
    """The fields of proc_pid_stat(5) from the third on. Empty if there is no such process."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def ending(code: int) -> str:
    """How a process ended, in words. A negative code is the number of a signal."""
    if code >= 0:
        return f"code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _prepare(cpus: Collection[int]) -> None:
    """Have the kernel end the server when this process is killed (prctl(2)). Set its cores."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if cpus:
        os.sched_setaffinity(0, cpus)
