"""One run of `python -m server`: start, serve until a signal or until a command has ended, end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from seresnext101_triton.client import timings
from seresnext101_triton.client.classifier import URL_VARIABLE
from seresnext101_triton.client.launches import LAUNCH_VARIABLE, Launch
from seresnext101_triton.client.served import ModelState
from seresnext101_triton.server.control import LOAD_TIMEOUT_S
from seresnext101_triton.server.errors import ServerError
from seresnext101_triton.server.notify import Notifier
from seresnext101_triton.server.signals import EndSignals

_LOOK_S = 0.2  # how often the server is looked at
_COMMAND_EXIT_S = 10.0  # how long a command may take to end after a signal


class Kept(Protocol):
    """What a session runs: `KeptServer`, or `Fleet`."""

    @property
    def launch(self) -> Launch:
        """What other processes know of it."""

    @property
    def models(self) -> list[ModelState]:
        """The models that it serves."""

    @property
    def is_recovering(self) -> bool:
        """Whether something that has died is being started again."""

    def start(self) -> None:
        """Start it."""

    def is_up(self) -> bool:
        """Whether it has been started completely."""

    def look(self) -> None:
        """Start again what has died."""

    def is_live(self) -> bool:
        """Whether it answers."""

    def check_deadline(self, deadline: float) -> None:
        """Raise `ServerError` if it is not up and the monotonic clock is beyond a time."""

    def drain(self) -> None:
        """Take no more requests, and wait until those in flight are answered."""

    def stop(self) -> None:
        """End it."""


class Session:
    """A server, or a fleet, that is kept running.

    Args:
        server: What is to run, not yet started.
        signals: The signals that end the session.
        say: A function that is called with each line for a person.
    """

    def __init__(self, server: Kept, signals: EndSignals, say: Callable[[str], None]) -> None:
        self._server, self._signals, self._say = server, signals, say
        self._notifier = Notifier()

    def run(self, command: Sequence[str]) -> int:
        """Serve, and return the exit code: 0 after a signal, or that of the command.

        Args:
            command: A command to run against the server. If it is empty, the server serves until a
                signal arrives.

        Raises:
            ServerError: The server cannot be started, or has died too often.
        """
        try:
            self._server.start()
            with timings.part("waiting for the models"):
                is_ready = self._wait_until_ready()
            if not is_ready:
                self._say("stopped")
                return 0
            announce(self._server, self._say)
            timings.report()
            self._notifier.send(READY=1, STATUS=f"gRPC {self._server.launch.url}")
            return self._with_command(command) if command else self._until_signal()
        finally:
            self._notifier.send(STOPPING=1)
            self._server.stop()

    def _wait_until_ready(self) -> bool:
        """Wait for the server. False if a signal has arrived."""
        deadline = time.monotonic() + LOAD_TIMEOUT_S
        while not self._server.is_up():
            if self._signals.wait(_LOOK_S / 2):
                return False
            self._server.check_deadline(deadline)
        return True

    def _until_signal(self) -> int:
        while not (arrived := self._signals.wait(_LOOK_S)):
            self._look()
        self._say(f"{arrived.name}: requests in flight are answered")
        self._server.drain()
        self._say("stopped")
        return 0

    def _look(self) -> None:
        self._server.look()
        # While something is started again, the server need not answer, and this takes no for ever.
        if self._notifier.is_sign_of_life_due() and (
            self._server.is_recovering or self._server.is_live()
        ):
            self._notifier.sign_of_life()

    def _with_command(self, command: Sequence[str]) -> int:
        # The command `seresnext101` is found without an activated environment too.
        path = f"{os.environ.get('PATH', os.defpath)}:{Path(sys.executable).parent}"
        environment = os.environ | {
            URL_VARIABLE: self._server.launch.url,
            LAUNCH_VARIABLE: str(self._server.launch.file),
            "PATH": path,
        }
        return run_command(command, environment, self._signals, self._look)


def run_command(
    command: Sequence[str],
    environment: Mapping[str, str],
    signals: EndSignals,
    look: Callable[[], None] = lambda: None,
) -> int:
    """Run a command until it ends, and pass signals on to it.

    Args:
        command: The command.
        environment: Its environment.
        signals: The signals that end it.
        look: A function that is called several times a second.

    Returns:
        Its exit code, or 128 and the number of the signal that ended it, as a shell tells it.

    Raises:
        ServerError: It cannot be started.
    """
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        raise ServerError(f"cannot run {command[0]}: {error.strerror}") from None
    try:
        while process.poll() is None:
            if arrived := signals.wait(_LOOK_S):
                _end(process, arrived)
            else:
                look()
    except BaseException:
        process.kill()
        process.wait()
        raise
    code = process.returncode
    return code if code >= 0 else 128 - code


def _end(process: subprocess.Popen[bytes], arrived: signal.Signals) -> None:
    """Let a command end by a signal, and wait for it."""
    # A terminal sends Ctrl-C to the command too, and a second one would interrupt its end.
    if arrived is not signal.SIGINT or not sys.stdin or not sys.stdin.isatty():
        process.send_signal(arrived)
    try:
        process.wait(_COMMAND_EXIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def announce(server: Kept, say: Callable[[str], None]) -> None:
    """Say what is served, and where."""
    for model in server.models:
        say(f"  {model.name} version {model.version}: ready")
    launch = server.launch
    say(
        f"gRPC {launch.url} · HTTP {launch.http_host}:{launch.http} · "
        f"metrics http://{launch.http_host}:{launch.metrics}/metrics"
    )
