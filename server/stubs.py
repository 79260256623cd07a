"""Sees which stubs of a server have died.

A stub is the process in which Triton runs a Python backend: one for each instance of a model. If it
is killed, for example because memory has run out, Triton does not start another. It answers every
request for that instance with an error, and still says that the model is ready.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from seresnext101_triton.server.process import STARTED, ending, stat_fields

_PROC = Path("/proc")
# If a load goes on for so long after the death of one of its stubs, Triton hangs. Otherwise it
# would collect the stub's exit status and fail the load.
_HANGS_AFTER_S = 1.0
_NAME = "triton_python_b"  # the kernel keeps 15 characters of the name of a program


@dataclass(frozen=True)
class Stub:
    """One stub.

    Attributes:
        pid: Its process id.
        started: When it was started, in ticks since the boot. With the process id, it is unique.
        model: The model that it runs; empty if it died before it was seen alive.
        version: The version of the model.
        exit_status: How it ended, as wait(2) tells it. None while it runs, and if it is not known.
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
    def fate(self) -> str:
        """What became of it, in words."""
        if self.exit_status is None:
            return "is gone"
        return f"ended with {ending(os.waitstatus_to_exitcode(self.exit_status))}"

    @property
    def death(self) -> str:
        """Which process of which model has died, and how."""
        return f"model {self.model or '(unknown)'}: its process {self.pid} {self.fate}"

    @property
    def death_in_load(self) -> str:
        """The same, if Triton hangs because of it."""
        return f"{self.death} while it was loaded, and tritonserver waits for it for ever"


class StubWatch:
    """Remembers the stubs of a server, so that it knows whose stub has died."""

    def __init__(self) -> None:
        self._alive: dict[tuple[int, int], Stub] = {}
        self._zombies: set[tuple[int, int]] = set()

    def alive(self, model: str, version: str) -> int:
        """The number of a version's stubs that were alive at the last call of `died`."""
        stubs = self._alive.values()
        return sum((stub.model, stub.version) == (model, version) for stub in stubs)

    def died(self, server: int) -> list[Stub]:
        """The stubs that have died since the last call.

        A stub that was killed stays behind as a zombie until Triton collects its exit status, or it
        is gone before it was seen as one. A stub that Triton itself has ended is also gone: the
        caller must check that its version of the model is still served, and is not being loaded.
        Of a stub that died before it was seen alive, the model is not known.

        Args:
            server: Process id of the server.
        """
        found = {(stub.pid, stub.started): stub for stub in stubs_of(server)}
        living = {key: stub for key, stub in found.items() if stub.exit_status is None}
        started = {
            (new.model, new.version) for key, new in living.items() if key not in self._alive
        }
        dead = []
        for key, seen in self._alive.items():
            if key in living:
                continue
            if key not in found and _is_there(seen):
                living[key] = seen  # the kernel may leave out a child while another ends
                continue
            status = found[key].exit_status if key in found else None
            # Triton ends the old stubs of a version after it has started new ones.
            is_replaced = status is None and (seen.model, seen.version) in started
            if status != 0 and not is_replaced:
                dead.append(replace(seen, exit_status=status))
        zombies = found.keys() - living.keys()
        dead += [
            found[key]
            for key in zombies - self._zombies - self._alive.keys()
            if found[key].exit_status
        ]
        self._alive, self._zombies = living, zombies
        return dead


class LoadWatch:
    """Sees that a starting server hangs: Triton waits for ever for a stub that dies in its load."""

    def __init__(self) -> None:
        self._watch = StubWatch()
        self._died: list[tuple[Stub, float]] = []

    def hangs_for(self, server: int) -> Stub | None:
        """The dead stub for which a server waits that loads models; None if it does not hang.

        Args:
            server: Process id of the server.
        """
        now = time.monotonic()
        died = [stub for stub in self._watch.died(server) if stub.exit_status is not None]
        self._died += [(stub, now) for stub in died]
        return next((stub for stub, since in self._died if is_waited_for(stub, since)), None)


def is_waited_for(stub: Stub, since: float) -> bool:
    """Whether Triton, which is still loading models, hangs because of the death of a stub.

    Args:
        stub: The stub.
        since: When its death was seen, on the monotonic clock.
    """
    return time.monotonic() - since > _HANGS_AFTER_S and _is_zombie(stub)


def _is_there(stub: Stub) -> bool:
    """Whether the process with a stub's id is still this stub, alive or as a zombie."""
    fields = stat_fields(stub.pid)
    return bool(fields) and fields[STARTED] == str(stub.started)


def _is_zombie(stub: Stub) -> bool:
    """Whether a stub has died and nobody has collected its exit status."""
    fields = stat_fields(stub.pid)
    return fields[:1] == ["Z"] and fields[STARTED] == str(stub.started)


def stubs_of(server: int) -> Iterator[Stub]:
    """The stubs of a server, those included that have died."""
    for pid in children_of(server):
        # A process may end while its files are read.
        with suppress(OSError, ValueError, IndexError):
            name = (_PROC / str(pid) / "comm").read_text().strip()
            fields = stat_fields(pid)
            if name != _NAME or not fields:
                continue
            is_zombie = fields[0] == "Z"
            artifact = Path()
            if not is_zombie:
                arguments = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
                artifact = Path(arguments[1].decode())  # REPOSITORY/MODEL/VERSION/FILE
            yield Stub(
                pid=pid,
                started=int(fields[STARTED]),
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
