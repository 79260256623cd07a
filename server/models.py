"""Finds the models of a repository that can be served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from seresnext101_triton.server.ensembles import needs_of, with_needed
from seresnext101_triton.server.errors import IntegrityError, NothingToServe
from seresnext101_triton.server.integrity import differences
from seresnext101_triton.server.versions import read_config, selected, versions


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


def check_artifacts(folders: Sequence[Path], note: Callable[[str], None] = _ignore) -> None:
    """Refuse models whose files are not those that were published.

    Only the versions are checked that Triton serves by the version policy of their model.

    Args:
        folders: The folders of the models.
        note: A function that is called with a line that names the versions without a manifest.

    Raises:
        IntegrityError: A file was changed. The message names each one.
    """
    damaged, unknown = [], []
    for folder in folders:
        if (needs := needs_of(folder)).models or needs.images:
            continue  # it has no artifact
        for version in versions_to_serve(folder):
            found = differences(folder / str(version))
            if found is None:
                unknown.append(f"{folder.name} version {version}")
            elif found:
                damaged.append(f"model {folder.name!r} version {version}: {'; '.join(found)}")
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
