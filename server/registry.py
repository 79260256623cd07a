"""Writes the files by which this user's clients find a running server, and removes old ones.

Each launch has `<name>.json`, which holds the key (mode 0600), and `<name>.lock`. The launcher and
its server hold a lock on the second file, which the kernel releases when the last of them has
ended, however it ended. So a later launch knows what earlier ones have left behind.
"""

from __future__ import annotations

import fcntl
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from seresnext101_triton.client.launches import (
    FOLDER_VARIABLE,
    Launch,
    read_launch,
    run_folder,
)
from seresnext101_triton.server.errors import ServerError
from seresnext101_triton.server.process import STARTED, stat_fields

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (where Linux keeps POSIX shared memory)
SHARED_PREFIX = "triton-"
WORKSPACE_PREFIX = "tritonserver-"
_TEMPORARY = Path("/tmp")  # noqa: S108  (Triton's Python backend does not look at $TMPDIR)
_ENVIRONMENTS = "python_env_??????"
_CLOCKS_DIFFER_S = 1.0  # the time of a file and of a process, at most
_WRITABLE_BY_OTHERS = 0o022
# What those lock who change the models of a server, who judge a version on it, and who have it
# answer a share of the requests with another version.
_LOCKS = (".control", ".aside", ".canary")


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
            for suffix in _LOCKS:
                self.file.with_suffix(suffix).touch(mode=0o600)
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
        _remove(self.file)
        os.close(self.lock)


def _remove(file: Path) -> None:
    for suffix in (".json", *_LOCKS, ".lock"):
        file.with_suffix(suffix).unlink(missing_ok=True)


def sweep() -> None:
    """Remove what killed launches and servers have left behind in files and in shared memory."""
    for path in run_folder().glob("*.lock"):
        with suppress(OSError), path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if launch := read_launch(path.with_suffix(".json")):
                remove_traces(launch)
            _remove(path)
    sweep_environments(_TEMPORARY)


def sweep_environments(folder: Path) -> None:
    """Remove the empty folders that Triton's Python backend makes for itself, of killed servers.

    Which server made a folder is not written anywhere. So only those are removed that are older
    than each tritonserver of this user that runs.

    Args:
        folder: Where they are.
    """
    found = list(folder.glob(_ENVIRONMENTS))  # before the servers: a new one comes with its server
    if not found:
        return
    started = min(map(_started_s, _servers()), default=math.inf)
    for path in found:
        with suppress(OSError):  # it is not empty, or it is another user's
            if path.stat().st_mtime < started:
                path.rmdir()


def _servers() -> Iterator[int]:
    """The process ids of the tritonservers of this user."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            name = (process / "comm").read_text().strip()
            if name == "tritonserver" and process.stat().st_uid == os.getuid():
                yield int(process.name)


def _started_s(pid: int) -> float:
    """When a process was started, in seconds since the epoch; infinite if it has just ended."""
    fields = stat_fields(pid)
    if not fields:
        return math.inf
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + int(fields[STARTED]) / os.sysconf("SC_CLK_TCK") - _CLOCKS_DIFFER_S


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
