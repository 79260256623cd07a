"""What is known of every version of a model, and which versions are served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seresnext101_triton.client.served import READY
from seresnext101_triton.export import live, manifest, promotion
from seresnext101_triton.export.filesystem import explained
from seresnext101_triton.export.manifest import Manifest
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.export.verification import published


@dataclass(frozen=True)
class Version:
    """One version of a model.

    Attributes:
        number: The version.
        manifest: What the export wrote down. None if there is no manifest that can be read.
        by_policy: Whether the version policy of the model names it.
        now: Whether a server of this user answers with it now.
    """

    number: int
    manifest: Manifest | None
    by_policy: bool
    now: bool


@dataclass(frozen=True)
class History:
    """The versions of one model, oldest first.

    Attributes:
        model: The name of the model.
        pinned: Whether a version that is published later must be promoted to be served.
        versions: The versions.
    """

    model: str
    pinned: bool
    versions: tuple[Version, ...]


def history(root: Path, models: Sequence[str] = ()) -> list[History]:
    """The versions of models.

    Args:
        root: The repository.
        models: The models; all of them if it is empty.

    Raises:
        RepositoryError: The repository is not there, or cannot be read.
        VersionError: A model has no version, or its config cannot be parsed.
        ServerError: A server does not say what it serves.
    """
    repository = Repository(root)
    return [_history(repository, model) for model in models or repository.models()]


def _history(repository: Repository, model: str) -> History:
    folder = repository.root / model
    numbers = published(repository, model)
    with explained(repository.root):
        named, policy = promotion.by_policy(folder), promotion.policy_of(folder)
    states = live.versions_in_use(repository.root, model)
    versions = tuple(
        Version(
            number,
            manifest.read(folder / str(number)),
            by_policy=number in named,
            now=states.get(number) == READY,
        )
        for number in numbers
    )
    return History(model, policy.WhichOneof("policy_choice") == "specific", versions)
