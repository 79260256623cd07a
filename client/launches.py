"""Finds the servers that `python -m server` runs on this machine for the same user.

A launcher restricts the protocols with which a caller could harm its server, and writes the key of
its launch into a file that only its own user can read. A client of that user finds the key there
and sends it, to that server only.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from seresnext101_triton.client.address import Address

# Names the file of one launch. The launcher sets it for the command that it runs.
LAUNCH_VARIABLE = "TRITON_LAUNCH_FILE"
# Names another folder for the files of all launches.
FOLDER_VARIABLE = "SERESNEXT101_RUN_FOLDER"
# The name under which Triton expects the key.
KEY_NAME = "launch-key"
_ANY_INTERFACE = ("0.0.0.0", "::")  # noqa: S104
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class Launch:
    """A server that a launcher keeps running, or the gateway of several.

    Attributes:
        pid: Process id of the launcher.
        repository: Absolute path of the model repository.
        address: The interface on which the server listens.
        grpc: Port for gRPC.
        http: Port for HTTP.
        metrics: Port for metrics.
        key: The key to the restricted protocols.
        restricted: The protocols that take the key.
        workspace: The folder of the launch. Its folder `models` is the repository that the server
            sees: it has a link for each model.
        shared_memory: How the names of the server's shared memory regions begin.
        tls: Whether gRPC takes TLS. HTTP and metrics are then open to this machine only.
        state: `starting`, `ready`, `restarting` or `stopping`.
        server_restarts: How often the server died and was started again.
        model_restarts: How often each model was loaded again because one of its processes died.
        replicas: How many servers a gateway at these ports shares out requests to. Each of them
            has a launch of its own too. 0 for the launch of a server.
        gateway_restarts: How often this gateway died and was started again.
        aside: Names who judges a version on this server, for whose sake its gateway sends it no
            requests now, unless no other server answers.
        canary: Names who has this server answer a share of the requests with another version now.
        file: The file that this was read from.
    """

    pid: int
    repository: str
    address: str
    grpc: int
    http: int
    metrics: int
    key: str
    restricted: tuple[str, ...]
    workspace: str
    shared_memory: str
    tls: bool = False
    state: str = "starting"
    server_restarts: int = 0
    model_restarts: Mapping[str, int] = field(default_factory=dict)
    replicas: int = 0
    gateway_restarts: int = 0
    aside: str = ""
    canary: str = ""
    file: Path = Path()

    @property
    def host(self) -> str:
        """The host under which this machine reaches the server, with brackets if it is IPv6."""
        if self.address in _ANY_INTERFACE:
            return "127.0.0.1" if self.address == _ANY_INTERFACE[0] else "[::1]"
        return f"[{self.address}]" if ":" in self.address else self.address

    @property
    def http_host(self) -> str:
        """The host of the endpoints for HTTP and metrics."""
        if self.tls:
            return "[::1]" if ":" in self.address else "127.0.0.1"
        return self.host

    @property
    def url(self) -> str:
        """The gRPC endpoint: `host:port`, or `grpcs://host:port` if it takes TLS."""
        return f"{'grpcs://' if self.tls else ''}{self.host}:{self.grpc}"

    @property
    def models_folder(self) -> Path:
        """The repository that the server sees."""
        return Path(self.workspace, "models")

    @property
    def restarts(self) -> str:
        """What was started again since the launch, in words."""
        parts = [f"gateway {self.gateway_restarts}"] if self.gateway_restarts else []
        parts += [f"server {self.server_restarts}"] if self.server_restarts else []
        parts += [f"{model} {count}" for model, count in sorted(self.model_restarts.items())]
        return ", ".join(parts) or "none"

    def to_json(self) -> str:
        """The content of the file."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "file"})

    def serves(self, address: Address) -> bool:
        """Whether an address is that of this server."""
        port = {"grpc": self.grpc, "http": self.http}.get(address.protocol)
        hosts = (self.address.lower(), self.host.strip("[]"))
        return address.port == port and (address.is_loopback or address.host in hosts)


def run_folder() -> Path:
    """The folder with the files of this user's launches. It may not exist.

    It does not depend on `$TMPDIR` or on a login session, so that a client finds the server of a
    service manager too.
    """
    return Path(
        os.environ.get(FOLDER_VARIABLE, "") or f"/tmp/seresnext101-triton-{os.getuid()}"  # noqa: S108
    )


def running_launches() -> list[Launch]:
    """The launches of this user that still run, the one named in the environment first."""
    named = os.environ.get(LAUNCH_VARIABLE, "")
    files = [Path(named)] if named else []
    with suppress(OSError):
        files += sorted(run_folder().glob("*.json"))
    found = (read_launch(file) for file in dict.fromkeys(files) if is_running(file))
    return [launch for launch in found if launch]


def read_launch(file: Path) -> Launch | None:
    """Read the file of a launch. None if it is missing, damaged, or if others can read it."""
    try:
        with file.open("rb") as content:
            facts = os.fstat(content.fileno())
            if facts.st_uid != os.getuid() or facts.st_mode & _OTHERS:
                return None
            document: dict[str, Any] = json.load(content)
        return replace(
            Launch(**document | {"restricted": tuple(document["restricted"])}), file=file
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def is_running(file: Path) -> bool:
    """Whether the launcher that wrote a file, or its server, is still there. Both hold a lock."""
    return is_locked(file.with_suffix(".lock"))


def is_locked(file: Path) -> bool:
    """Whether a process holds a lock on a file."""
    try:
        with file.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def launch_at(address: Address) -> Launch | None:
    """The launch whose server listens at an address; None if this user runs none there."""
    return next((launch for launch in running_launches() if launch.serves(address)), None)


def key_headers(address: Address) -> dict[str, str]:
    """The headers that give access to the server at an address. Empty if none are known."""
    launch = launch_at(address)
    return {address.spoken.key_header(KEY_NAME): launch.key} if launch else {}
