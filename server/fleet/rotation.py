"""Has the gateway of a server send it no requests, or a share of them, while a version is judged.

Who judges holds a lock on a file of the server's launch, which the kernel releases however the
process ends. The fleet sees the lock, has the gateway follow, and says so in the server's launch.
Who moves servers to another version holds such a lock on the gateway's launch, or on that of a
server without a gateway, so that nobody else does the same meanwhile.
"""

from __future__ import annotations

import fcntl
import json
import math
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from seresnext101_triton.client.launches import (
    Launch,
    is_locked,
    is_running,
    read_launch,
    running_launches,
)
from seresnext101_triton.server.errors import ServerError

_ASIDE, _CANARY = ".aside", ".canary"
_WITHIN_S = 10.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Canary:
    """A version on one server of a fleet that answers a share of the requests.

    Attributes:
        model: The name of the model.
        version: The version.
        before: The versions that the server has besides, and alone again at the end.
        percent: The share of all requests to the fleet that this server gets, 1 to 99.
        name: Names who has asked for it.
    """

    model: str
    version: int
    before: Sequence[int]
    percent: int
    name: str = field(default_factory=lambda: secrets.token_hex(8))


@contextmanager
def rolling(launches: Iterable[Launch]) -> Iterator[None]:
    """Keep others meanwhile from moving servers, or their fleets, to another version.

    Args:
        launches: The servers.
    """
    heads = {(gateway_of(each) or each).file for each in launches}
    with ExitStack() as locks:
        for file in sorted(heads):
            with suppress(OSError):  # the server has just ended
                locks.enter_context(_locked(file, _ASIDE))
        yield


@contextmanager
def aside(launch: Launch) -> Iterator[None]:
    """Have the gateway of a server send it no requests meanwhile.

    Requests that the server has are answered. Afterwards it gets requests again. A server without a
    gateway, or the only one of its gateway that answers, stays in the rotation.

    Args:
        launch: The server.

    Raises:
        ServerError: The server has ended, or its fleet does not follow.
    """
    if not gateway_of(launch):
        yield
        return
    name = secrets.token_hex(8)
    try:
        with _asked(launch, _ASIDE, name):
            _wait_for_the_fleet(launch, lambda now: now.aside == name)
            yield
    finally:
        _wait_while(launch, lambda now: now.aside == name, _WITHIN_S)


@contextmanager
def on_trial(launch: Launch, canary: Canary) -> Iterator[None]:
    """Have a server get a share of the requests to its fleet, and then go back to its version.

    Whoever calls this has the server load the version, in a view of its own. At the end, also if
    this process is killed, the fleet has it go back. It gets no requests until it has done so, as
    long as another server answers.

    Args:
        launch: The server, which has a gateway.
        canary: The version and the share.

    Raises:
        ServerError: The server has ended, or its fleet does not follow.
    """
    try:
        with _asked(launch, _CANARY, json.dumps(asdict(canary))):
            _wait_for_the_fleet(launch, lambda now: now.canary == canary.name)
            yield
    finally:
        _wait_while(launch, lambda now: now.canary == canary.name)


def judge_of(launch: Launch) -> str:
    """Names who judges a version on a server now. Empty if nobody does."""
    return _asker_of(launch, _ASIDE)


def canary_of(launch: Launch) -> Canary | None:
    """The version for whose sake a server is to get a share of the requests now."""
    text = _asker_of(launch, _CANARY)
    return Canary(**json.loads(text)) if text else None


def gateway_of(launch: Launch) -> Launch | None:
    """The gateway of a server. None if it has none."""
    gateways = (each for each in running_launches() if each.replicas)
    return next((each for each in gateways if each.pid == launch.pid), None)


def _locked(file: Path, suffix: str) -> TextIO:
    """A lock of a launch, taken. Closing it releases it.

    Raises:
        OSError: The launch has ended.
    """
    lock = file.with_suffix(suffix).open("r+")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


@contextmanager
def _asked(launch: Launch, suffix: str, text: str) -> Iterator[None]:
    """Ask a fleet for something meanwhile, by a text in a file that is locked.

    Raises:
        ServerError: The server has ended.
    """
    try:
        lock = _locked(launch.file, suffix)
    except OSError:
        raise ServerError(f"the server at {launch.url} has ended") from None
    with lock:
        lock.truncate()
        lock.write(text)
        lock.flush()
        yield


def _asker_of(launch: Launch, suffix: str) -> str:
    """The text of whoever asks for something now. Empty if nobody does."""
    file = launch.file.with_suffix(suffix)
    return file.read_text() if is_locked(file) else ""


def _wait_for_the_fleet(launch: Launch, follows: Callable[[Launch], bool]) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while not ((found := read_launch(launch.file)) and follows(found)):
        if time.monotonic() > deadline:
            raise ServerError(
                f"the launcher of the server at {launch.url} does not change what its gateway "
                "sends to it: start the fleet again"
            )
        time.sleep(_POLL_S)


def _wait_while(
    launch: Launch, is_so: Callable[[Launch], bool], at_most_s: float = math.inf
) -> None:
    """Wait until a fleet has changed something, or has ended."""
    deadline = time.monotonic() + at_most_s
    while is_running(launch.file) and (now := read_launch(launch.file)) and is_so(now):
        if time.monotonic() > deadline:
            return
        time.sleep(_POLL_S)
