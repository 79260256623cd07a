"""The ports of a server: whether they are free, and which process listens on them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.server.errors import PortInUse

LOCALHOST = "127.0.0.1"
_PROC = Path("/proc")
_TABLES = ("net/tcp", "net/tcp6")
_LISTEN = "0A"  # TCP_LISTEN in the kernel's tables


@dataclass(frozen=True)
class Ports:
    """The ports of the three endpoints. 0 means a free port.

    Attributes:
        grpc: Port for gRPC.
        http: Port for HTTP.
        metrics: Port for metrics.
    """

    grpc: int = 8001
    http: int = 8000
    metrics: int = 8002

    def resolve(self, address: str) -> Ports:
        """These ports with a free port in place of each 0.

        Args:
            address: The interface to listen on.

        Raises:
            UsageError: The interface is not named. A socket would listen on every one.
            PortInUse: Another process listens on a requested port.
        """
        if not address.strip():
            raise UsageError("`address` is empty: name an address of this machine")
        taken: list[socket.socket] = []
        asked = [port for port in vars(self).values() if port]
        if len(set(asked)) < len(asked):
            raise PortInUse(f"each endpoint needs a port of its own, and not {asked}")
        try:
            for name, port in vars(self).items():
                candidate = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
                taken.append(candidate)
                candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    candidate.bind((address, port))
                except (OSError, OverflowError) as error:
                    raise PortInUse(_why_not(error, address, name, port)) from None
            return Ports(*(candidate.getsockname()[1] for candidate in taken))
        finally:
            for candidate in taken:
                candidate.close()


def bare_address(address: str) -> str:
    """An address without the brackets that URLs have around an IPv6 address."""
    inner = address[1:-1] if address.startswith("[") and address.endswith("]") else ""
    return inner if ":" in inner else address


def owner(port: int) -> int | None:
    """The process that listens on a TCP port. None if there is none, or if it cannot be told.

    The kernel shows a process of another user only to root.
    """
    inodes = set(_listeners(port))
    for process in _PROC.glob("[0-9]*"):
        if inodes & set(_sockets(process)):
            return int(process.name)
    return None


def listens(pid: int, port: int) -> bool:
    """Whether a process listens on a TCP port. True if the kernel does not tell."""
    if not any((_PROC / table).exists() for table in _TABLES):
        return True
    return bool(set(_listeners(port)) & set(_sockets(_PROC / str(pid))))


def occupied(address: str, name: str, port: int) -> PortInUse:
    """The error for a port on which another process listens."""
    error = OSError(errno.EADDRINUSE, "Address already in use")
    return PortInUse(_why_not(error, address, name, port))


def _listeners(port: int) -> Iterator[str]:
    """The inodes of the sockets that listen on a port (proc_net_tcp in the kernel's docs)."""
    for table in _TABLES:
        with suppress(OSError):
            for line in (_PROC / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _sockets(process: Path) -> Iterator[str]:
    """The inodes of the sockets that a process has open."""
    with suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    yield target[len("socket:[") : -1]


def _why_not(error: OSError | OverflowError, address: str, name: str, port: int) -> str:
    """Why the server cannot listen on a port, and what to do about it."""
    why = error.strerror if isinstance(error, OSError) else "no such port"
    place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    text = f"cannot listen on {place} ({why})"
    number = getattr(error, "errno", None)
    if isinstance(error, socket.gaierror) or number == errno.EADDRNOTAVAIL:
        return f"{text}: `address` must be an address of this machine, for example 127.0.0.1"
    if number == errno.EAFNOSUPPORT:
        return f"{text}: this machine has no IPv6. Name an IPv4 address in `address`"
    if number == errno.EADDRINUSE:
        pid = owner(port)
        text += f": process {pid} does" if pid else ": another server may be running"
    return f"{text}. Choose another with `{name}_port`, or a free one with `{name}_port=0`"
