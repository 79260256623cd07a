"""Tells systemd how the server is (sd_notify(3)). Without systemd, nothing happens."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

_SOCKET_VARIABLE = "NOTIFY_SOCKET"


class Notifier:
    """The connection to the service manager that started this process.

    The commands that this process starts do not inherit it.
    """

    def __init__(self) -> None:
        self._path = os.environ.pop(_SOCKET_VARIABLE, "")
        period = _watchdog_period_s()
        # The manager recommends a sign of life after half of its period.
        self._interval_s = period and period / 2
        self._last = 0.0

    def send(self, **facts: object) -> None:
        """Send facts, for example `READY=1`. A manager that does not listen is no error."""
        if not self._path:
            return
        text = "\n".join(f"{name}={value}" for name, value in facts.items())
        # "@" stands for the abstract namespace of Linux.
        path = f"\0{self._path[1:]}" if self._path.startswith("@") else self._path
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto(text.encode(), path)

    def is_sign_of_life_due(self) -> bool:
        """Whether the manager expects a sign of life now."""
        return bool(self._interval_s) and time.monotonic() - self._last >= self._interval_s

    def sign_of_life(self) -> None:
        """Tell the manager that the server works."""
        self._last = time.monotonic()
        self.send(WATCHDOG=1)


def _watchdog_period_s() -> float:
    """The time after which the manager takes a silent process for dead; 0 if it does not watch."""
    process = os.environ.pop("WATCHDOG_PID", str(os.getpid()))
    period = os.environ.pop("WATCHDOG_USEC", "0")
    watches_this = process == str(os.getpid())
    return int(period) / 1e6 if watches_this and period.isdigit() else 0.0
