"""Sees which stubs of a server have died.

A stub is the process in which Triton runs a Python backend: one for each instance of a model. If it
is killed, for example because memory has run out, Triton does not start another. It answers every
request for that instance with an error, and still says that the model is ready.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seresnext101_triton.server.process import ending

_PROC = Path("/proc")
_NAME = "triton_python_b"  # the kernel keeps 15 characters of the name of a program


@dataclass(frozen=True)
class Stub:
    """One stub.

    Attributes:
        pid: Its process id.
        started: When it was started, in ticks since the boot. With the process id, it is unique.
        model: The model that it runs; empty if it died before it was seen alive.
        version: The version of the model.
        exit_status: How it ended, as wait(2) tells it. None while it runs.
    """

    pid: int
    started: int
    model: str
    version: str
    exit_status: int | None

    @property
    def started_s(self) -> float:
        """When it was started, in seconds since the boot."""
        return self.started / os.sysconf("SC_CLK_TCK")

    @property
    def end(self) -> str:
        """How it ended, in words."""
        return ending(os.waitstatus_to_exitcode(self.exit_status or 0))


class StubWatch:
    """Remembers the stubs of a server, so that it knows whose stub has died."""

    def __init__(self) -> None:
        self._alive: dict[tuple[int, int], Stub] = {}
        self._reported: set[tuple[int, int]] = set()

    def died(self, server: int) -> list[Stub]:
        """The stubs that have died since the last call. A stub that Triton ends is not among them.

        Triton collects the exit status of a stub that it has ended, so that only the others stay
        behind, as zombies.

        Args:
            server: Process id of the server.
        """
        found = {(stub.pid, stub.started): stub for stub in stubs_of(server)}
        dead = []
        for key, stub in found.items():
            if stub.exit_status is None:
                self._alive[key] = stub
            elif stub.exit_status and key not in self._reported and key in self._alive:
                self._reported.add(key)
                seen = self._alive[key]
                dead.append(
                    Stub(stub.pid, stub.started, seen.model, seen.version, stub.exit_status)
                )
        self._alive = {key: stub for key, stub in self._alive.items() if key in found}
        self._reported &= found.keys()
        return dead


def stubs_of(server: int) -> Iterator[Stub]:
    """The stubs of a server, those included that have died."""
    for pid in children_of(server):
        # A process may end while its files are read.
        with suppress(OSError, ValueError, IndexError):
            head, _, tail = (_PROC / str(pid) / "stat").read_text().rpartition(")")
            fields = tail.split()  # from field 3 of proc_pid_stat(5) on
            if head.partition("(")[2] != _NAME:
                continue
            is_zombie = fields[0] == "Z"
            artifact = Path()
            if not is_zombie:
                arguments = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
                artifact = Path(arguments[1].decode())  # REPOSITORY/MODEL/VERSION/FILE
            yield Stub(
                pid=pid,
                started=int(fields[19]),
                model=artifact.parent.parent.name,
                version=artifact.parent.name,
                exit_status=int(fields[49]) if is_zombie else None,
            )


def children_of(pid: int) -> Iterator[int]:
    """The processes that the threads of a process have started."""
    with suppress(OSError):
        for task in (_PROC / str(pid) / "task").iterdir():
            with suppress(OSError):
                yield from map(int, (task / "children").read_text().split())
