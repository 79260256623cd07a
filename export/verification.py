"""Whether a repository still holds what was published: every artifact, and every config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seresnext101_triton.client.errors import ContractError
from seresnext101_triton.export import config, manifest, promotion, sharing
from seresnext101_triton.export.errors import VersionError
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.server import integrity
from seresnext101_triton.server.errors import IntegrityError
from seresnext101_triton.server.needs import needs_of
from seresnext101_triton.server.versions import CONFIG_FILENAME


@dataclass(frozen=True)
class Verdict:
    """What was found of one version.

    Attributes:
        model: The name of the model.
        version: The version.
        state: `intact`, `changed`, `unknown` if the version has no manifest, or `no artifact` if it
            only decodes images or calls other models.
        differences: A sentence for each file that is not as it was published.
    """

    model: str
    version: int
    state: str
    differences: tuple[str, ...] = ()


def verify(
    root: Path, models: Sequence[str] = (), progress: Callable[[str], object] = str
) -> list[Verdict]:
    """Compare every version of a repository with its manifest.

    The config.pbtxt of the served version must also tell clients to prepare images as the artifact
    was proven with.

    Args:
        root: The repository.
        models: The models; all of them if it is empty.
        progress: It is called with `MODEL version N` before each version.

    Raises:
        RepositoryError: The repository is not there, or cannot be read.
        VersionError: A model has no version.
    """
    repository = Repository(root)
    verdicts = []
    for model in models or repository.models():
        for version in repository.versions(model) or published(repository, model):
            progress(f"{model} version {version}")
            verdicts.append(_verdict(repository.root / model, version))
    return verdicts


def published(repository: Repository, model: str) -> list[int]:
    """The versions of a model, oldest first; there is at least one.

    Raises:
        RepositoryError: The repository is not there, or cannot be read.
        VersionError: The model has no version.
    """
    known = repository.models()
    if model not in known:
        raise VersionError(
            f"{repository.root} holds no version of {model!r}: "
            + (f"choose from {', '.join(known)}" if known else "it holds no exported model")
        )
    return repository.versions(model)


def check_intact(folder: Path) -> str:
    """Refuse a version whose files are not those that were published.

    Args:
        folder: The folder of the version.

    Returns:
        A note for the user if the version has no manifest, so that its files cannot be checked;
        otherwise an empty text.

    Raises:
        IntegrityError: A file was changed.
    """
    sharing.complete(folder)
    found = integrity.differences(folder)
    if found is None:
        return f"{folder} has no manifest: its files are not checked"
    if found:
        raise IntegrityError(
            f"{folder}: {'; '.join(found)}: choose another version, or export this one anew"
        )
    return ""


def _verdict(folder: Path, version: int) -> Verdict:
    sharing.complete(folder / str(version), anew=True)
    found = integrity.differences(folder / str(version))
    if found is None and ((needs := needs_of(folder)).models or needs.images):
        return Verdict(folder.name, version, "no artifact")
    if found is None:
        return Verdict(folder.name, version, "unknown")
    found += _wrong_config(folder, version)
    return Verdict(folder.name, version, "changed" if found else "intact", tuple(found))


def _wrong_config(folder: Path, version: int) -> list[str]:
    """How the config differs from what the artifact was proven with, if the version is served."""
    facts = manifest.read(folder / str(version))
    try:
        if facts is None or version not in promotion.by_policy(folder):
            return []
        text = (folder / CONFIG_FILENAME).read_text(encoding="utf-8")
        if config.contract(text) == facts.preprocessing:
            return []
    except (VersionError, ContractError, OSError, UnicodeDecodeError) as error:
        return [f"{CONFIG_FILENAME} cannot be used: {error}"]
    return [f"{CONFIG_FILENAME} prepares images in another way than the artifact was proven with"]
