"""Finds the models of a repository that can be served."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seresnext101_triton.server.errors import IntegrityError, NothingToServe
from seresnext101_triton.server.integrity import differences
from seresnext101_triton.server.needs import needs_of, with_needed
from seresnext101_triton.server.versions import read_config, selected, versions

# MODEL@N, one version of a model, which is served under this name.
_ONE_VERSION = re.compile(r"(.+)@([1-9][0-9]{0,17})")


@dataclass(frozen=True)
class ServedFolder:
    """A model that is to be served.

    Attributes:
        folder: Its folder in the repository.
        version: The one version to serve. None means those that the version policy names.
        renamed: Whether the version is served under the name `MODEL@N`.
    """

    folder: Path
    version: int | None = None
    renamed: bool = False

    @property
    def name(self) -> str:
        """The name of the model for the server and its clients."""
        return f"{self.folder.name}@{self.version}" if self.renamed else self.folder.name

    @property
    def versions(self) -> list[int]:
        """The versions that are served, oldest first. See `versions_to_serve`."""
        return versions_to_serve(self.folder) if self.version is None else [self.version]


def _ignore(_line: str) -> None:
    """Do nothing with a note."""


def served_models(
    repository: Path, names: Sequence[str] = (), note: Callable[[str], None] = _ignore
) -> list[Path]:
    """The model folders of a repository that have at least one version.

    Args:
        repository: The model repository.
        names: The models to serve; those that they need are added. If it is empty, all models are
            served.
        note: A function that is called with a line for each folder that cannot be read.

    Raises:
        NothingToServe: The repository is not a folder or cannot be read, holds no exported model,
            lacks a model that was named, or has one with a name that Triton cannot serve.
    """
    if not repository.is_dir():
        raise NothingToServe(
            f"{repository} is not a folder: name a model repository with `repository`"
        )
    try:
        folders = sorted(folder for folder in repository.iterdir() if _is_candidate(folder))
    except OSError as error:
        raise NothingToServe(
            f"{repository} cannot be read ({error.strerror}): name another model repository with "
            "`repository`"
        ) from None
    models = [folder for folder in folders if _has_version(folder, note)]
    if not models:
        raise NothingToServe(
            f"{repository} holds no exported model. Export one: python -m export --weights ngc "
            f"--repository {repository}"
        )
    if unknown := set(names) - {folder.name for folder in models}:
        known = ", ".join(folder.name for folder in models)
        missing = ", ".join(sorted(unknown))
        raise NothingToServe(f"{repository} holds no exported model {missing}: choose from {known}")
    served = with_needed(models, names)
    for folder in served:
        if folder.name.split() != [folder.name]:
            raise NothingToServe(
                f"Triton cannot serve a model with a blank in its name: rename {str(folder)!r}, or "
                "serve the others with `only=NAME`"
            )
    return served


def chosen_models(
    repository: Path, names: Sequence[str] = (), note: Callable[[str], None] = _ignore
) -> list[ServedFolder]:
    """The models of a repository that were named, each a MODEL or one version of it, MODEL@N.

    Args:
        repository: The model repository.
        names: As for `served_models`.
        note: As for `served_models`.

    Raises:
        NothingToServe: As for `served_models`, or a model has no such version.
    """
    wanted = [model_and_version(name) for name in names]
    folders = served_models(repository, [model for model, _ in wanted], note)
    if not wanted:
        return [ServedFolder(folder) for folder in folders]
    by_name = {folder.name: folder for folder in folders}
    for model, version in wanted:
        if version is not None and version not in (there := versions(by_name[model])):
            known = ", ".join(map(str, there))
            raise NothingToServe(f"{model} has no version {version}: choose from {known}")
    chosen = [
        ServedFolder(by_name[model], version, renamed=version is not None)
        for model, version in dict.fromkeys(wanted)
    ]
    named = {model for model, _ in wanted}
    chosen += [ServedFolder(folder) for folder in folders if folder.name not in named]
    return sorted(chosen, key=lambda one: one.name)


def model_and_version(name: str) -> tuple[str, int | None]:
    """Read MODEL or MODEL@N."""
    found = _ONE_VERSION.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, None)


def servable(repository: Path, names: Sequence[str] = ()) -> list[Path]:
    """The folders of `served_models`, as far as they can be read now. Nothing is raised."""
    try:
        folders = sorted(folder for folder in repository.iterdir() if _is_candidate(folder))
    except OSError:
        return []
    return [
        folder
        for folder in folders
        if (not names or folder.name in names) and _has_version(folder, _ignore)
    ]


def intact_models(
    models: Sequence[ServedFolder], note: Callable[[str], None] = _ignore
) -> list[ServedFolder]:
    """The same models. One whose files were changed gets the newest older version that is intact.

    Args:
        models: The models.
        note: A function that is called with a line for each model that gets an older version.
    """
    return [_intact(model, note) for model in models]


def _intact(model: ServedFolder, note: Callable[[str], None]) -> ServedFolder:
    wanted = model.versions
    found = [text for version in wanted for text in differences(model.folder / str(version)) or ()]
    if not found or model.renamed:
        return model
    for version in reversed(versions(model.folder)):
        if version < max(wanted) and not differences(model.folder / str(version)):
            note(
                f"model {model.name}: version {version} is served, because version {max(wanted)} "
                f"is not as it was published: {'; '.join(found)}"
            )
            return ServedFolder(model.folder, version)
    return model


def check_artifacts(models: Sequence[ServedFolder], note: Callable[[str], None] = _ignore) -> None:
    """Refuse models whose files are not those that were published.

    Only the versions are checked that Triton serves by the version policy of their model.

    Args:
        models: The models.
        note: A function that is called with a line that names the versions without a manifest.

    Raises:
        IntegrityError: A file was changed. The message names each one.
    """
    damaged, unknown = [], []
    for model in models:
        if (needs := needs_of(model.folder)).models or needs.images:
            continue  # it has no artifact
        name = model.folder.name
        for version in model.versions:
            found = differences(model.folder / str(version))
            if found is None:
                unknown.append(f"{name} version {version}")
            elif found:
                damaged.append(f"model {name!r} version {version}: {'; '.join(found)}")
    if unknown:
        note(f"not checked, because there is no manifest: {', '.join(unknown)}")
    if damaged:
        raise IntegrityError(
            "\n".join(damaged)
            + "\nexport it anew, go back to an older version with `python -m export rollback "
            "MODEL`, or serve the others with `only=NAME`"
        )


def versions_to_serve(folder: Path) -> list[int]:
    """The versions of a model that Triton serves by its version policy, oldest first.

    There is none if the folder or the config cannot be read. Triton then gives the reason.
    """
    try:
        return selected(read_config(folder), versions(folder))
    except (OSError, ValueError):
        return []


def _is_candidate(folder: Path) -> bool:
    return not folder.name.startswith(".") and folder.is_dir()


def _has_version(folder: Path, note: Callable[[str], None]) -> bool:
    try:
        return any(path.name.isdigit() for path in folder.iterdir())
    except OSError as error:
        note(f"left out: {folder} cannot be read ({error.strerror})")
        return False
