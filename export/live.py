"""The servers of this user that serve a repository now, on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from seresnext101_triton.client.served import LOADING, READY, UNLOADING
from seresnext101_triton.server.control import Control, running
from seresnext101_triton.server.errors import LoadError
from seresnext101_triton.server.fleet.rotation import aside
from seresnext101_triton.server.soak import failed_share, soak
from seresnext101_triton.server.spot_check import spot_check
from seresnext101_triton.server.syncing import served_folder
from seresnext101_triton.server.view import View

_FOLLOWS_WITHIN_S = 60.0
_POLL_S = 0.05
_IN_USE = (READY, LOADING, UNLOADING)


def versions_in_use(root: Path, model: str) -> dict[int, str]:
    """The versions of a model that servers have loaded, and the state of each.

    The state is `READY` if a server answers with the version now. Otherwise it is `LOADING` or
    `UNLOADING`.

    Raises:
        ServerError: A server does not say what it serves.
    """
    found: dict[int, str] = {}
    for launch in running(served_folder(root)):
        for state in Control(launch).index():
            version = int(state.version) if state.version else 0
            named = state.name in (model, f"{model}@{version}")
            if named and state.state in _IN_USE and found.get(version) != READY:
                found[version] = state.state
    return found


def follow(
    root: Path,
    model: str,
    versions: Sequence[int],
    judged: ExitStack | None = None,
    soak_s: float = 0.0,
) -> list[str]:
    """Have every server that serves a model load the versions that its version policy names now.

    One server follows the other, so that a version that fails does so at the first of them.

    Args:
        root: The repository.
        model: The model.
        versions: The versions that the policy names.
        judged: If it is given, each server must classify a photograph with the newest of these
            versions, and its gateway sends it no other requests meanwhile. With a server that fails
            this goes on until the stack is closed.
        soak_s: With `judged`: how long each server then answers its callers, in seconds, before the
            next one follows. See `seresnext101_triton.server.soak`.

    Returns:
        `host:port` of the servers, each of which answers with the newest of these versions now.

    Raises:
        LoadError: A server cannot load them, or does not answer with them as it should.
        ServerError: A server does not answer.
    """
    followed = []
    for launch in running(root):
        control = Control(launch)
        if any(state.name == model for state in control.index()):
            rotation = ExitStack()
            failed = failed_share(launch, model) if soak_s else 0.0
            if judged is not None:
                judged.push(rotation)
                rotation.enter_context(aside(launch))
            with control.exclusively():  # a launcher may have kept the versions of before
                View.of(launch).show(Path(launch.repository, model))
            control.load(model)
            wait_for(control, model, set(versions))
            if judged is not None:
                spot_check(launch, model, max(versions))
            rotation.close()
            soak(launch, model, max(versions), soak_s, failed)
            followed.append(launch.url)
    return followed


def wait_for(control: Control, model: str, versions: set[int]) -> None:
    """Wait until exactly these versions are ready.

    A server that follows the repository may need a moment, because its launcher acts too.
    """
    deadline = time.monotonic() + _FOLLOWS_WITHIN_S
    while True:
        states = [state for state in control.index() if state.name == model]
        ready = {int(state.version) for state in states if state.state == READY}
        if ready == versions:
            return
        if time.monotonic() > deadline:
            reasons = [
                state.reason for state in states if state.reason and int(state.version) in versions
            ]
            raise LoadError(
                f"model {model!r} did not become version {max(versions)} within "
                f"{_FOLLOWS_WITHIN_S:.0f} s: {'; '.join(reasons) or 'the server gives no reason'}"
            )
        time.sleep(_POLL_S)
