"""The servers of this user that serve a repository now, on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from seresnext101_triton.client.launches import Launch
from seresnext101_triton.client.served import LOADING, READY, UNLOADING
from seresnext101_triton.server import acceptance
from seresnext101_triton.server.control import Control, running
from seresnext101_triton.server.errors import LoadError, ServerError
from seresnext101_triton.server.fleet.rotation import aside
from seresnext101_triton.server.models import versions_to_serve
from seresnext101_triton.server.soak import failed_share, soak
from seresnext101_triton.server.spot_check import spot_check
from seresnext101_triton.server.syncing import served_folder

_FOLLOWS_WITHIN_S = 60.0
_POLL_S = 0.05
_IN_USE = (READY, LOADING, UNLOADING)
Before = tuple[Launch, list[int]]  # a server, and the versions with which it answered


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


@contextmanager
def moved(
    root: Path, model: str, versions: Sequence[int], soak_s: float = 0.0
) -> Iterator[list[str]]:
    """Have every server that serves a model answer with other versions, or none of them.

    One server follows the other, so that a version that fails does so at the first of them. Each
    must classify a photograph with the newest version, and its gateway sends it no other requests
    meanwhile. After an error, also one within the context, all servers answer as before; one that
    has failed gets no requests until then. Nothing is taken back if the error came after the
    repository was changed, so that it names these versions.

    Args:
        root: The repository.
        model: The model.
        versions: The versions.
        soak_s: How long each server then answers its callers, in seconds, before the next one
            follows. See `seresnext101_triton.server.soak`.

    Yields:
        `host:port` of the servers, each of which answers with the newest of these versions now.

    Raises:
        LoadError: A server cannot load them, does not answer with them as it should, or has died.
    """
    versions, before, all_have_moved = sorted(versions), list[Before](), False
    with ExitStack() as judged:
        try:
            while launch := next(_serving(root, model, before), None):
                before.append((launch, Control(launch).ready_versions(model)))
                _move(launch, Path(launch.repository, model), versions, soak_s, judged)
            all_have_moved = True
            yield [launch.url for launch, _ in before]
        except BaseException as error:
            if all_have_moved and versions_to_serve(root / model) == versions:
                raise
            after = _take_back(model, before)
            if not isinstance(error, ServerError):
                raise
            why = str(error).strip().rstrip(".;")
            raise LoadError(f"{why}. The repository is as before, and {after}") from None


def _serving(root: Path, model: str, known: Sequence[Before]) -> Iterator[Launch]:
    """The servers that serve a model, without those that are known."""
    files = {launch.file for launch, _ in known}
    for launch in running(root):
        states = [] if launch.file in files else Control(launch).index()
        if any(state.name == model for state in states):
            yield launch


def _move(
    launch: Launch, folder: Path, versions: list[int], soak_s: float, judged: ExitStack
) -> None:
    """Have one server load versions, judge them, and accept them."""
    model, control, rotation = folder.name, Control(launch), ExitStack()
    judged.push(rotation)
    failed = failed_share(launch, model) if soak_s else 0.0
    rotation.enter_context(aside(launch))
    acceptance.load(launch, folder, versions)
    wait_for(control, model, set(versions))
    spot_check(launch, model, max(versions))
    rotation.close()
    soak(launch, model, max(versions), soak_s, failed)
    acceptance.accept(launch, folder, versions)


def _take_back(model: str, before: Sequence[Before]) -> str:
    """Have servers answer as before, and tell how they answer now."""
    problems = []
    for launch, versions in before:
        try:
            acceptance.take_back(launch, Path(launch.repository, model), versions)
        except ServerError as error:
            problems.append(f"a server could not go back: {error}")
    return "; ".join(problems) or "its servers answer as before"


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
