"""Lets callers try a version: one server of a fleet answers a share of their requests with it.

The repository does not change. The fleet goes back when the trial ends, however it ends
(`seresnext101_triton.server.fleet.rotation.on_trial`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from seresnext101_triton.client.contract import CANARY_PARAMETER
from seresnext101_triton.client.launches import Launch
from seresnext101_triton.client.served import ServedModel, read_served_model
from seresnext101_triton.client.top import Row, rows_between
from seresnext101_triton.export import live, promotion
from seresnext101_triton.export.errors import VersionError
from seresnext101_triton.export.filesystem import explained
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.export.verification import check_intact, published
from seresnext101_triton.server import acceptance
from seresnext101_triton.server.control import Control, running
from seresnext101_triton.server.errors import ServerError
from seresnext101_triton.server.fleet.rotation import Canary, aside, gateway_of, on_trial, rolling
from seresnext101_triton.server.soak import failed_share, page_of, soak
from seresnext101_triton.server.spot_check import spot_check
from seresnext101_triton.server.versions import config_folder, read_config


@dataclass(frozen=True)
class Trial:
    """What callers got from two versions of a model at the same time.

    Attributes:
        model: The name of the model.
        version: The version that was tried.
        before: The version that is served.
        percent: The share of all requests that the server with the tried version got.
        seconds: The time.
        rows: What each of both versions did in this time, `before` first.
    """

    model: str
    version: int
    before: int
    percent: int
    seconds: float
    rows: tuple[Row, ...]


def try_version(  # noqa: PLR0913  (one argument for each independent option)
    root: Path, model: str, version: int, percent: int, seconds: float, say: Callable[[str], None]
) -> Trial:
    """Let callers use a version on one server of a fleet, and judge it as `promote` does.

    Args:
        root: The repository.
        model: The model.
        version: The version.
        percent: The share of the requests, 1 to 99.
        seconds: How long.
        say: A function that is called with each line for the user when it begins.

    Raises:
        RepositoryError: The repository cannot be read.
        VersionError: There is no such version, it is served already, or it takes or answers
            otherwise than the version that is served.
        IntegrityError: The files of the version are not those that were published.
        LoadError: The server cannot load the version, does not answer with it as it should, or more
            requests of callers fail than before.
        ServerError: No fleet serves the model, or its server does not answer.
    """
    repository = Repository(root)
    folder = repository.root / model
    with explained(repository.root):
        known = published(repository, model)
        if version not in known:
            raise VersionError(
                f"{model} has no version {version}: choose from {', '.join(map(str, known))}"
            )
        served = promotion.by_policy(folder)
        _check_use(folder, version, served)
        check_intact(folder / str(version))
    launch, other, gateway = _servers_of_a_fleet(repository.root, model, served)
    failed = failed_share(gateway, model)
    with rolling([launch]), _loaded(launch, folder, Canary(model, version, served, percent)):
        say(
            f"version {version} of {model} answers {percent} % of the requests to {gateway.url}, "
            f"at {launch.url}, for {seconds:g} s"
        )
        say(f"to compare both: python -m perf compare {model}@{other.url} {model}@{launch.url}")
        begin = page_of(gateway)
        soak(launch, model, version, seconds, failed)
        rows = rows_between(begin, page_of(gateway), seconds, None)
    both = [(model, str(number)) for number in (served[-1], version)]
    found = {(row.model, row.version): row for row in rows}
    return Trial(model, version, served[-1], percent, seconds, tuple(found[each] for each in both))


@contextmanager
def _loaded(launch: Launch, folder: Path, canary: Canary) -> Iterator[None]:
    """Have a server answer with the version of a canary too, after it was judged."""
    control, versions = Control(launch), [*canary.before, canary.version]
    with ExitStack() as stack:
        judged = stack.enter_context(ExitStack())
        judged.enter_context(aside(launch))
        stack.enter_context(on_trial(launch, canary))
        acceptance.load(launch, folder, versions, {CANARY_PARAMETER: str(canary.version)})
        live.wait_for(control, canary.model, set(versions))
        spot_check(launch, canary.model, canary.version)
        judged.close()
        yield


def _check_use(folder: Path, version: int, served: list[int]) -> None:
    """Refuse a version that callers of the served one cannot use.

    Raises:
        VersionError: It is so.
    """
    if not served or version in served:
        raise VersionError(
            f"version {version} of {folder.name} is served already"
            if served
            else f"{folder.name} has no version that is served: promote one"
        )
    if version < served[-1]:
        raise VersionError(
            f"version {version} of {folder.name} is older than version {served[-1]}, which is "
            "served, and Triton answers with the newest: try a newer one"
        )
    if not _used(folder, version).is_used_like(_used(folder, served[-1])):
        raise VersionError(
            f"version {version} of {folder.name} takes or answers otherwise than version "
            f"{served[-1]}, so that the same callers cannot use both: promote it"
        )


def _used(folder: Path, version: int) -> ServedModel:
    """How a version is used, by its own config, or else by that of the model."""
    config = read_config(config_folder(folder, version))
    return read_served_model(folder.name, [str(version)], config)


def _servers_of_a_fleet(root: Path, model: str, served: list[int]) -> tuple[Launch, Launch, Launch]:
    """A server of a fleet, another one beside it, and their gateway.

    Raises:
        ServerError: No fleet of this user serves the model, or it answers with other versions.
    """
    launches = running(root)
    for launch in reversed(launches):
        gateway = gateway_of(launch)
        others = [each for each in launches if each.pid == launch.pid and each is not launch]
        if gateway is None or not others:
            continue
        ready = Control(launch).ready_versions(model)
        if ready == served:
            return launch, others[0], gateway
        if ready:
            raise ServerError(
                f"the server at {launch.url} answers with version {ready[-1]} of {model}, and not "
                f"with version {served[-1]}: wait for the end of a canary, or promote this one"
            )
    raise ServerError(
        f"no fleet of two servers or more that you run serves {model}: start one with `python -m "
        f"server --replicas 2 --repository {root}`"
    )
