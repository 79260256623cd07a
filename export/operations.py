"""Moves a model to another version, and removes old versions.

The servers that serve the model load the version and judge it, one after the other. Then the
repository is changed, in one step: it never names a version that a server has refused. What is
killed before that leaves the repository as it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from seresnext101_triton.export import image_input, live, manifest, promotion, sharing
from seresnext101_triton.export.errors import OptionError, VersionError
from seresnext101_triton.export.filesystem import explained, sync
from seresnext101_triton.export.publication import Publication
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.export.verification import check_intact, published
from seresnext101_triton.server.control import running
from seresnext101_triton.server.fleet.rotation import rolling
from seresnext101_triton.server.versions import newest_policy, pinned_policy, versions

# Chooses a version from those that are published and those that are served.
Choice = Callable[[Sequence[int], Sequence[int]], int]


@dataclass(frozen=True)
class Switch:
    """What a promotion or a rollback has done.

    Attributes:
        model: The name of the model.
        version: The version that is served now.
        before: The versions that the policy named before.
        pinned: Whether a version that is published later must be promoted to be served.
        servers: `host:port` of the servers that have followed.
        note: What the user should know; may be empty.
        is_shared: Whether the repository is in an object store, where servers look for themselves.
    """

    model: str
    version: int
    before: tuple[int, ...]
    pinned: bool
    servers: tuple[str, ...]
    note: str
    is_shared: bool = False


@dataclass(frozen=True)
class Pruned:
    """The versions of one model after `prune`.

    Attributes:
        model: The name of the model.
        removed: The versions that were removed, oldest first.
        kept: The other versions, oldest first.
        served: Those of the kept versions that a server serves, or will serve by the policy.
    """

    model: str
    removed: tuple[int, ...]
    kept: tuple[int, ...]
    served: tuple[int, ...]


def promote(root: Path, model: str, to: int | None = None, *, soak_s: float = 0.0) -> Switch:
    """Have a version of a model served.

    Args:
        root: The repository.
        model: The model.
        to: The version, which is then served until the next promotion or rollback. None means the
            newest version, and also each version that is published later.
        soak_s: How long each server answers its callers, in seconds, before the next one follows.

    Raises:
        RepositoryError: The repository cannot be read or written. It is unchanged.
        VersionError: There is no such version.
        IntegrityError: The files of the version are not those that were published.
        LoadError: A server cannot load the version, or does not answer with it as it should. It
            answers as before, and the repository is as before.
    """
    if to is None:
        return _switch(root, model, lambda known, _served: known[-1], soak_s, pin=False)
    return _switch(root, model, lambda known, _served: _chosen(model, to, known), soak_s, pin=True)


def roll_back(root: Path, model: str, to: int | None = None, *, soak_s: float = 0.0) -> Switch:
    """Have an older version of a model served, until the next promotion.

    Args:
        root: The repository.
        model: The model.
        to: The version. None means the one before the version that the policy names.
        soak_s: As for `promote`.

    Raises:
        RepositoryError: The repository cannot be read or written. It is unchanged.
        VersionError: There is no such version, or none is older.
        IntegrityError: The files of the version are not those that were published.
        LoadError: A server cannot load the version, or does not answer with it as it should. It
            answers as before, and the repository is as before.
    """

    def choose(available: Sequence[int], served: Sequence[int]) -> int:
        now = served[-1] if served else available[-1] + 1
        if to is not None:
            if _chosen(model, to, available) > now:
                raise VersionError(
                    f"version {to} of {model} is newer than version {now}, which is served: "
                    f"promote it: python -m export promote {model} --to {to}"
                )
            return to
        older = [version for version in available if version < now]
        if not older:
            raise VersionError(
                f"{model} has no version before {now}, so nothing can be rolled back"
            )
        return older[-1]

    return _switch(root, model, choose, soak_s, pin=True)


def prune(
    root: Path, keep: int, models: Sequence[str] = (), *, dry_run: bool = False
) -> list[Pruned]:
    """Remove old versions. A version is removed whole or not at all.

    What a server of this user serves, or what the version policy names, is never removed.

    Args:
        root: The repository.
        keep: How many of the newest versions to keep, one at least.
        models: The models; all of them if it is empty.
        dry_run: Only say what would be removed.

    Raises:
        OptionError: `keep` is below 1.
        RepositoryError: The repository cannot be read or written.
        VersionError: A model has no version.
        ServerError: A server does not say what it serves. Nothing was removed.
    """
    if keep < 1:
        raise OptionError(f"`keep` must be at least 1, not {keep}")
    repository = Repository(root)
    with repository.changing() as publication:
        done = [_old_versions(repository, model, keep) for model in models or repository.models()]
        for pruned in done if not dry_run else ():
            _remove(publication, pruned)
    return done


def _chosen(model: str, version: int, available: Sequence[int]) -> int:
    if version in available:
        return version
    raise VersionError(
        f"{model} has no version {version}: choose from {', '.join(map(str, available))}"
    )


def _switch(root: Path, model: str, choose: Choice, soak_s: float, *, pin: bool) -> Switch:
    repository = Repository(root)
    folder = repository.root / model
    # Before the lock: an artifact of hundreds of megabytes is read.
    with explained(repository.root):
        version = choose(published(repository, model), promotion.by_policy(folder))
        note = check_intact(folder / str(version))
    policy = pinned_policy(version) if pin else newest_policy()
    with rolling(running(repository.root)):
        with repository.changing() as publication, explained(repository.root):
            before = promotion.by_policy(folder)
            _stage(publication, model, version, policy)  # so that no server loads it in vain
        with (
            live.moved(repository.root, model, [version], soak_s) as servers,
            repository.changing() as publication,
            explained(repository.root),
        ):
            if not pin and (newest := repository.versions(model)[-1]) != version:
                raise VersionError(
                    f"version {newest} of {model} was published meanwhile: promote again"
                )
            _stage(publication, model, version, policy)
            publication.publish()
    shared = sharing.is_shared(repository.root)
    return Switch(model, version, tuple(before), pin, tuple(servers), note, shared)


def _stage(
    publication: Publication, model: str, version: int, policy: pb.ModelVersionPolicy
) -> None:
    """Prepare that a version is served.

    Raises:
        VersionError: There is no such version any more, or its config is not known.
    """
    _chosen(model, version, versions(publication.root / model))
    staged = publication.stage(model)
    promotion.switch(staged, version, policy)
    if facts := manifest.read(staged.folder / str(version)):
        image_input.stage(publication, facts)


def _old_versions(repository: Repository, model: str, keep: int) -> Pruned:
    available = published(repository, model)
    folder = repository.root / model
    served = {*promotion.by_policy(folder), *live.versions_in_use(repository.root, model)}
    kept = [version for version in available if version in {*available[-keep:], *served}]
    removed = [version for version in available if version not in kept]
    in_use = [version for version in kept if version in served]
    return Pruned(model, tuple(removed), tuple(kept), tuple(in_use))


def _remove(publication: Publication, pruned: Pruned) -> None:
    """Move versions out of the repository. `Publication.close` then removes them."""
    folder = publication.root / pruned.model
    if not pruned.removed:
        return
    away = publication.scratch()
    moved: list[int] = []
    with explained(publication.root):
        try:
            for version in pruned.removed:
                os.rename(folder / str(version), away / str(version))
                moved.append(version)
            sync(folder)
        except BaseException:
            for version in reversed(moved):
                os.rename(away / str(version), folder / str(version))
            raise
