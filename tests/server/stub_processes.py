"""Processes that look like stubs of a server, which is the process of the tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


class Stubs:
    """Starts shells with the name and the arguments of Triton's stub.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = folder / "triton_python_backend_stub"
        self._program.symlink_to("/bin/sh")
        self._started: list[subprocess.Popen[str]] = []

    def start(self, model: str, version: str = "1", name: str = "") -> subprocess.Popen[str]:
        """A stub that runs until it reads a number, and ends with this code."""
        script = self._folder / model / version / "model.py"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text("echo up; read code; exit $code")
        program = self._folder / name if name else self._program
        if name:
            program.symlink_to("/bin/sh")
        pipe = subprocess.PIPE
        process = subprocess.Popen([program, script], stdin=pipe, stdout=pipe, text=True)
        self._started.append(process)
        assert process.stdout and process.stdout.readline() == "up\n"
        return process

    def close(self) -> None:
        """End all that runs."""
        for process in self._started:
            process.kill()
            process.communicate()


def has_died(process: subprocess.Popen[str]) -> None:
    """Wait until a process has ended, and leave its exit status to be collected."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
