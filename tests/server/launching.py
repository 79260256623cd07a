"""`python -m server` in a process of its own, for tests and trials."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from seresnext101_triton.client.launches import Launch, running_launches
from seresnext101_triton.server.ports import Ports
from seresnext101_triton.server.stubs import children_of, stubs_of
from tests.conftest import FREE_PORTS

DEADLINE_S = 120  # of what takes seconds on an idle machine


class Launcher:
    """`python -m server` in a process of its own, and what it prints."""

    def __init__(
        self,
        repository: Path,
        *arguments: str,
        ports: Ports = FREE_PORTS,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        flags = [f"--{name}-port={port}" for name, port in vars(ports).items()]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "server", "--repository", str(repository), *flags, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | dict(environment or {}),
        )
        self.repository = repository
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def expect(self, words: str, after: int = 0) -> str:
        """Wait for a line with these words."""

        def found() -> str:
            return next((line for line in self.lines[after:] if words in line), "")

        with self._news:
            self._news.wait_for(lambda: found() or not self._reader.is_alive(), DEADLINE_S)
            assert found(), f"no {words!r} in {self.lines}"
            return found()

    def launch(self, *, gateway: bool = False) -> Launch:
        """What it tells of its server, or of the gateway of its servers."""
        return next(
            each
            for each in running_launches()
            if each.pid == self.process.pid and bool(each.replicas) == gateway
        )

    def server(self) -> int:
        return next(children_of(self.process.pid))

    def stubs(self, model: str) -> list[int]:
        return [stub.pid for stub in stubs_of(self.server()) if stub.model == model]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(DEADLINE_S)
        self._reader.join()
        return code


@contextmanager
def launcher(
    repository: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[Launcher]:
    """A launcher that is ready."""
    started = Launcher(repository, *arguments, environment=environment)
    try:
        started.expect("gRPC ")
        yield started
    finally:
        if started.process.poll() is None:
            started.end()
