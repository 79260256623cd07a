"""The right to change a repository in an object store. One process has it at a time.

It is an object, made by a conditional write, that its holder renews. Whoever sees for `LEASE_S`, by
its own clock, that it is not renewed, takes it over; on the holder's own machine, as soon as the
holder is dead. In the object is what the holder is about to write, for the one who takes over.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from seresnext101_triton.client.output import say
from seresnext101_triton.export.errors import RepositoryError
from seresnext101_triton.server.errors import StoreError
from seresnext101_triton.server.process import STARTED, stat_fields
from seresnext101_triton.server.store import Store

LEASE = ".lease.json"
LEASE_S = 30.0
_POLL_S = 0.5
_SAY_AFTER_S = 3.0


class Lease:
    """The lease of one repository, which this process may have.

    Args:
        store: The repository.
        lease_s: How long a holder may be silent, in seconds.
    """

    def __init__(self, store: Store, lease_s: float = LEASE_S) -> None:
        self._store, self._lease_s = store, lease_s
        self._holder = _this_process()
        self._pending: Sequence[str] = ()
        self._mark: Mapping[str, Any] | None = None
        self._beats = 0
        self._guard = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, wait_s: float) -> Sequence[str] | None:
        """Take the lease.

        Args:
            wait_s: How long to wait for its holder, in seconds.

        Returns:
            None if it was free. Otherwise its holder is dead, and these are the paths that it was
            about to write.

        Raises:
            RepositoryError: Another process still has it.
            StoreError: The store cannot be used.
        """
        started = time.monotonic()
        is_said = False
        seen: Mapping[str, Any] | None = None
        since = 0.0
        while True:
            self._mark = self._store.create(LEASE, self._content())
            if self._mark is not None:
                self._keep()
                return None
            found = self._store.read(LEASE)
            if found is None:
                continue  # its holder has just given it back
            holder, pending = _read(found.content)
            if found.mark != seen:
                seen, since = found.mark, time.monotonic()
            if _is_dead(holder) or time.monotonic() - since > self._lease_s:
                self._pending = pending
                self._mark = self._store.replace(LEASE, self._content(), found.mark)
                if self._mark is not None:
                    self._keep()
                    return pending
            elif time.monotonic() - started >= wait_s:
                raise RepositoryError(
                    f"{self._store.url}: another process has been changing it for {wait_s:.0f} s "
                    f"({_named(holder)}); run again when it has finished"
                )
            elif time.monotonic() - started >= _SAY_AFTER_S and not is_said:
                say(f"{self._store.url}: waiting for another process ({_named(holder)})")
                is_said = True
            time.sleep(_POLL_S)

    def note(self, pending: Sequence[str]) -> None:
        """Write down which paths will be written or removed.

        Raises:
            RepositoryError: Another process has taken the lease over.
        """
        self._pending = pending
        self._renew()

    def check(self) -> None:
        """Refuse to go on if another process has taken the lease over.

        Raises:
            RepositoryError: It is so.
        """
        if self._mark is None:
            raise RepositoryError(
                f"{self._store.url}: this process was silent for too long, and another one has "
                "taken over: run again"
            )

    def release(self, *, finished: bool) -> None:
        """Give the lease back.

        Args:
            finished: Whether nothing is pending. If something is, the lease stays, so that the
                next process finds it.
        """
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        if self._mark is not None and finished:
            with suppress(RepositoryError, StoreError):  # another one has taken it over, or will
                self._renew()
                self._store.remove(LEASE)
        self._mark = None

    def _keep(self) -> None:
        self._end.clear()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._end.wait(self._lease_s / 3):
            with suppress(RepositoryError, StoreError):  # `check` tells, or the next beat succeeds
                self._renew()

    def _renew(self) -> None:
        with self._guard:
            self.check()
            assert self._mark is not None
            self._mark = self._store.replace(LEASE, self._content(), self._mark)
            found = self._store.read(LEASE) if self._mark is None else None
            if found and _read(found.content)[0] == self._holder:
                # An earlier write was made, and its answer was lost.
                self._mark = self._store.replace(LEASE, self._content(), found.mark)
            self.check()

    def _content(self) -> bytes:
        self._beats += 1
        content = {"holder": self._holder, "beat": self._beats, "pending": list(self._pending)}
        return json.dumps(content, indent=1).encode()


def _named(holder: Mapping[str, Any]) -> str:
    return f"on {holder.get('host')}, process {holder.get('pid')}"


def _read(content: bytes) -> tuple[dict[str, Any], list[str]]:
    """The holder, and what it was about to write. A damaged lease has neither."""
    try:
        found = json.loads(content)
        return dict(found["holder"]), [str(path) for path in found["pending"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}, []


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


def _machine() -> str:
    """What two processes have in common that see each other's numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in ticks since the boot; empty if there is no such process."""
    fields = stat_fields(pid)
    return fields[STARTED] if len(fields) > STARTED and fields[0] != "Z" else ""


def _is_dead(holder: Mapping[str, Any]) -> bool:
    """Whether a holder was a process of this machine that has ended."""
    pid, machine = holder.get("pid"), _machine()
    if not machine or holder.get("machine") != machine or not isinstance(pid, int):
        return False
    return _started(pid) != holder.get("started")
