"""Writes the files by which this user's clients find a running server, and removes old ones.

Each launch has `<name>.json`, which holds the key (mode 0600), and `<name>.lock`. The launcher and
its server hold a lock on the second file, which the kernel releases when the last of them has
ended, however it ended. So a later launch knows what earlier ones have left behind.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from seresnext101_triton.client.launches import (
    FOLDER_VARIABLE,
    Launch,
    read_launch,
    run_folder,
)
from seresnext101_triton.server.errors import ServerError

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (where Linux keeps POSIX shared memory)
SHARED_PREFIX = "triton-"
WORKSPACE_PREFIX = "tritonserver-"
_WRITABLE_BY_OTHERS = 0o022


class Registration:
    """The files of one launch, from `write` until `remove`.

    Attributes:
        name: A name that no other launch has.
        file: The file with the key.
        lock: The descriptor of the lock. The server inherits it.

    Raises:
        ServerError: The folder cannot be used.
    """

    def __init__(self) -> None:
        folder = _folder()
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.file = folder / f"{self.name}.json"
        hidden = folder / f".{self.name}.new"
        try:
            self.lock = os.open(hidden, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self.lock, fcntl.LOCK_EX)
            self.file.with_suffix(".control").touch(mode=0o600)
            hidden.rename(self.file.with_suffix(".lock"))  # a sweep sees it only with its lock
        except OSError as error:
            raise _unusable(folder, error) from None

    def write(self, launch: Launch) -> None:
        """Write the launch's file in one step.

        Raises:
            ServerError: It cannot be written.
        """
        hidden = self.file.with_name(f".{self.file.name}.new")
        try:
            descriptor = os.open(hidden, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as content:
                content.write(launch.to_json())
            hidden.rename(self.file)
        except OSError as error:
            raise _unusable(self.file.parent, error) from None

    def remove(self) -> None:
        """Remove the files and release the lock."""
        for suffix in (".json", ".control", ".lock"):
            self.file.with_suffix(suffix).unlink(missing_ok=True)
        os.close(self.lock)


def sweep() -> None:
    """Remove what launches have left behind that were killed: workspaces and shared memory."""
    for path in run_folder().glob("*.lock"):
        with suppress(OSError), path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if launch := read_launch(path.with_suffix(".json")):
                remove_traces(launch)
            for suffix in (".json", ".control", ".lock"):
                path.with_suffix(suffix).unlink(missing_ok=True)


def remove_traces(launch: Launch) -> None:
    """Remove the workspace and the shared memory of a launch whose processes have ended.

    A name that is not one of `Workspace` is left alone, since the file may be damaged.
    """
    if launch.shared_memory.startswith(SHARED_PREFIX):
        for region in SHARED_MEMORY.glob(f"{launch.shared_memory}*"):
            region.unlink(missing_ok=True)
    if Path(launch.workspace).name.startswith(WORKSPACE_PREFIX):
        shutil.rmtree(launch.workspace, ignore_errors=True)


def _folder() -> Path:
    folder = run_folder()
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
    except OSError as error:
        raise _unusable(folder, error) from None
    if facts.st_uid != os.getuid() or facts.st_mode & _WRITABLE_BY_OTHERS or not folder.is_dir():
        raise ServerError(
            f"{folder} is not a folder in which only this user can write, and the server's key "
            f"would be written there: remove it, or name another folder in ${FOLDER_VARIABLE}"
        )
    return folder


def _unusable(folder: Path, error: OSError) -> ServerError:
    return ServerError(
        f"{folder} cannot hold the server's key ({error.strerror}): name another folder in "
        f"${FOLDER_VARIABLE}"
    )
