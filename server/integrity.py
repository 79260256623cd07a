"""Whether the files of a published version are still those that the export has proven.

The export writes the name, length and sha256 of each artifact into the version's manifest.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from seresnext101_triton.server.digest import sha256

MANIFEST_FILENAME = "manifest.json"


def differences(folder: Path) -> list[str] | None:
    """Compare the artifacts of a version with its manifest.

    Args:
        folder: The folder of the version.

    Returns:
        A sentence for each artifact that is not the published one. The list is empty if all are.
        None if the version has no manifest, so that nothing is known of its files.
    """
    path = folder / MANIFEST_FILENAME
    try:
        if not path.is_file():  # reading a FIFO would block
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return [f"{MANIFEST_FILENAME} cannot be read: {error.strerror}"]
    except (ValueError, RecursionError):
        return [f"{MANIFEST_FILENAME} is damaged"]
    artifacts = content.get("artifacts") if isinstance(content, dict) else None
    if not names_files(artifacts):
        return [f"{MANIFEST_FILENAME} names no artifacts beside it"]
    return changed(folder, artifacts)


def changed(folder: Path, artifacts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each artifact that is not the published one.

    Args:
        folder: The folder of the version.
        artifacts: The artifacts as the manifest names them.
    """
    return [found for artifact in artifacts if (found := _difference(folder, artifact))]


def _difference(folder: Path, artifact: Mapping[str, Any]) -> str | None:
    name = artifact["file"]
    path = folder / name
    try:
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != artifact["bytes"]:
            return f"{name} has {size} bytes, and {artifact['bytes']} were published"
        if sha256(path) != artifact["sha256"]:
            return f"{name} was changed: its sha256 is not the published one"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    return None


def names_files(artifacts: object) -> TypeGuard[list[dict[str, Any]]]:
    """Whether this is a list of at least one artifact.

    Each has the plain name of a file beside the manifest, a sha256 and a length.
    """
    return (
        isinstance(artifacts, list)
        and bool(artifacts)
        and all(
            isinstance(artifact, dict)
            and isinstance(name := artifact.get("file"), str)
            and name not in ("", ".", "..")
            and not {"/", "\0"} & set(name)
            and isinstance(artifact.get("sha256"), str)
            and type(artifact.get("bytes")) is int
            for artifact in artifacts
        )
    )
