"""Takes a server of a fleet out of the gateway's rotation while a version is judged on it.

Who judges holds a lock on a file of the server's launch, which the kernel releases however the
process ends. The fleet sees the lock, has the gateway follow, and says so in the server's launch.
Who moves servers to another version holds such a lock on the gateway's launch, or on that of a
server without a gateway, so that nobody else does the same meanwhile.
"""

from __future__ import annotations

import fcntl
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from seresnext101_triton.client.launches import (
    Launch,
    is_locked,
    read_launch,
    running_launches,
)
from seresnext101_triton.server.errors import ServerError

_SUFFIX = ".aside"
_WITHIN_S = 10.0
_POLL_S = 0.05


@contextmanager
def rolling(launches: Iterable[Launch]) -> Iterator[None]:
    """Keep others meanwhile from moving servers, or their fleets, to another version.

    Args:
        launches: The servers.
    """
    heads = {(_gateway_of(each) or each).file for each in launches}
    with ExitStack() as locks:
        for file in sorted(heads):
            with suppress(OSError):  # the server has just ended
                locks.enter_context(_locked(file))
        yield


@contextmanager
def aside(launch: Launch) -> Iterator[None]:
    """Have the gateway of a server send it no requests meanwhile.

    Requests that the server has are answered. A server without a gateway, or the only one of its
    gateway that answers, stays in the rotation.

    Args:
        launch: The server.

    Raises:
        ServerError: The server has ended, or its fleet does not follow.
    """
    if not _gateway_of(launch):
        yield
        return
    try:
        lock = _locked(launch.file)
    except OSError:
        raise ServerError(f"the server at {launch.url} has ended") from None
    with lock:
        name = secrets.token_hex(8)
        lock.truncate()
        lock.write(name)
        lock.flush()
        _wait_for_the_fleet(launch, name)
        yield


def judge_of(launch: Launch) -> str:
    """Names who judges a version on a server now. Empty if nobody does."""
    file = launch.file.with_suffix(_SUFFIX)
    return file.read_text() if is_locked(file) else ""


def _gateway_of(launch: Launch) -> Launch | None:
    gateways = (each for each in running_launches() if each.replicas)
    return next((each for each in gateways if each.pid == launch.pid), None)


def _locked(file: Path) -> TextIO:
    """The lock of a launch, taken. Closing it releases it.

    Raises:
        OSError: The launch has ended.
    """
    lock = file.with_suffix(_SUFFIX).open("r+")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _wait_for_the_fleet(launch: Launch, name: str) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while not ((found := read_launch(launch.file)) and found.aside == name):
        if time.monotonic() > deadline:
            raise ServerError(
                f"the launcher of the server at {launch.url} does not take it out of the rotation: "
                "start the fleet again"
            )
        time.sleep(_POLL_S)
