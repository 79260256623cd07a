"""The temporary folder of a launch: the models that the server sees, and its backends."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from seresnext101_triton.server.errors import WorkspaceError
from seresnext101_triton.server.models import ServedFolder
from seresnext101_triton.server.registry import SHARED_MEMORY, SHARED_PREFIX, WORKSPACE_PREFIX
from seresnext101_triton.server.view import View

# The Python backend creates 1 MiB of shared memory for each model instance, and more for its
# tensors: a batch of 8 images takes 5 MB. It aborts or hangs if it cannot have it.
_LEAST_SHARED_MEMORY = 32 << 20
_ADVICE = "name another folder in $TMPDIR"


class Workspace:
    """A folder of one launch.

    Args:
        name: A name that no other launch has.

    Attributes:
        folder: The folder.
        models: The repository that the server sees: an entry for each model that is served.
        view: What changes the entries.
        shared_memory: How the names of the server's shared memory regions begin.

    Raises:
        WorkspaceError: The temporary folder, or shared memory, cannot be used for a server.
    """

    def __init__(self, name: str) -> None:
        self.shared_memory = f"{SHARED_PREFIX}{name}-"
        check_shared_memory(SHARED_MEMORY)
        parent = Path(tempfile.gettempdir()).absolute()
        _check_parent(parent)
        self.folder = parent / f"{WORKSPACE_PREFIX}{name}"
        self.models = self.folder / "models"
        self.view = View(self.models, self.folder / "pinned")
        try:
            self.folder.mkdir(mode=0o700)
            self.models.mkdir()
        except OSError as error:
            raise unusable(parent, error) from None

    def show(self, models: Sequence[ServedFolder]) -> None:
        """Show models to the server.

        Raises:
            WorkspaceError: The temporary folder is full.
        """
        try:
            for model in models:
                if model.version is None:
                    self.view.show(model.folder)
                else:
                    self.view.pin(model.folder, [model.version], model.name)
        except OSError as error:
            raise unusable(self.folder.parent, error) from None

    def clear_shared_memory(self) -> None:
        """Remove the server's shared memory. The server must have ended."""
        for region in SHARED_MEMORY.glob(f"{self.shared_memory}*"):
            region.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder and the server's shared memory. The server must have ended."""
        self.clear_shared_memory()
        shutil.rmtree(self.folder, ignore_errors=True)


def unusable(folder: Path, error: OSError) -> WorkspaceError:
    """The error for a temporary folder that cannot be written."""
    reason = error.strerror or str(error)
    if isinstance(error, shutil.Error):  # of several files: source, destination and reason of each
        reason = error.args[0][-1][-1].partition(": ")[0]
    return WorkspaceError(f"the temporary folder {folder} cannot be written ({reason}): {_ADVICE}")


def _check_parent(parent: Path) -> None:
    """Refuse a folder from which Triton cannot start its stub."""
    if any(character.isspace() for character in str(parent)):
        raise WorkspaceError(
            f"the temporary folder {str(parent)!r} has a blank in its path, and Triton cannot "
            f"start a backend from there: {_ADVICE}"
        )
    if os.statvfs(parent).f_flag & os.ST_NOEXEC:
        raise WorkspaceError(
            f"no program can be run from the temporary folder {parent} (it is mounted noexec), and "
            f"Triton's backends are: {_ADVICE}"
        )


def check_shared_memory(folder: Path) -> None:
    """Refuse a machine with too little shared memory.

    Raises:
        WorkspaceError: It has too little.
    """
    try:
        facts = os.statvfs(folder)
    except OSError as error:
        raise WorkspaceError(
            f"the server needs shared memory, and {folder} cannot be used: {error.strerror}"
        ) from None
    free = facts.f_bavail * facts.f_frsize
    if free < _LEAST_SHARED_MEMORY:
        raise WorkspaceError(
            f"{folder} has {free / 2**20:.0f} MiB of shared memory left, and the server needs at "
            f"least {_LEAST_SHARED_MEMORY >> 20} MiB: free some, or enlarge it, for a container "
            "with --shm-size=1g"
        )
