"""Passes tensors in memory that the client and a server on the same machine share."""

from __future__ import annotations

import os
import threading
import uuid
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory

import numpy as np
from tritonclient.utils import InferenceServerException

_FOLDER = "/dev/shm"  # noqa: S108  (Linux keeps POSIX shared memory there)


@dataclass(frozen=True)
class Region:
    """A region of shared memory that the server knows.

    Attributes:
        name: The name by which the server knows it.
        size: Size in bytes.
        memory: The memory.
    """

    name: str
    size: int
    memory: SharedMemory


class SharedTensors:
    """POSIX shared memory, registered with one server: one region for each request in flight.

    Tensors are sent as usual, after one warning, if shared memory cannot be used: if the server is
    on another machine, if it allows shared memory to no client (Triton does so from 26.04 on unless
    it is started with `--allow-client-shm=true`), or if this machine has too little of it, as
    containers have by default. A process that is killed leaves nothing behind, because Python's
    resource tracker outlives it and removes its regions.

    Args:
        register: Makes a region known to the server, by name, key and size in bytes. It may raise
            `InferenceServerException` or `OSError`.
        unregister: Takes a region back from the server, by name.
    """

    def __init__(
        self,
        register: Callable[[str, str, int], Awaitable[None]],
        unregister: Callable[[str], Awaitable[None]],
    ) -> None:
        self._register, self._unregister = register, unregister
        self._lock = threading.Lock()
        self._free: list[Region] = []
        self._all: list[Region] = []
        self._usable = True

    async def take(self, batch: np.ndarray) -> Region | None:
        """A region that holds a batch, until `give_back`; None if no memory can be shared."""
        region = await self._region(batch.nbytes) if self._usable else None
        if region:
            np.ndarray(batch.shape, batch.dtype, buffer=region.memory.buf)[...] = batch
        return region

    def give_back(self, region: Region) -> None:
        """Make a region available to the next request."""
        with self._lock:
            self._free.append(region)

    def give_up(self, reason: object) -> None:
        """Share no more memory, and warn of the reason once."""
        with self._lock:
            if not self._usable:
                return
            self._usable = False
        warnings.warn(
            f"no shared memory with this server, tensors are sent instead: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )

    async def close(self) -> None:
        """Take every region back from the server and remove it."""
        with self._lock:
            regions, self._all, self._free = self._all, [], []
        is_known = True
        for region in regions:
            if is_known:
                try:
                    await self._unregister(region.name)
                except (InferenceServerException, OSError):
                    is_known = False  # the server has ended, or was restarted
            _remove(region.memory)

    def _key(self, name: str) -> str:
        """The name by which the server finds a region in the system."""
        return f"/{name}"

    async def _region(self, size: int) -> Region | None:
        with self._lock:
            for region in self._free:
                if region.size >= size:
                    self._free.remove(region)
                    return region
        name = f"client-{os.getpid()}-{uuid.uuid4().hex}"
        try:
            memory = _create(name, size)
        except OSError as error:
            why = error.strerror or error
            self.give_up(f"{size} bytes of shared memory cannot be had: {why}")
            return None
        region = Region(name, size, memory)
        with self._lock:
            self._all.append(region)
        try:
            await self._register(name, self._key(name), size)
        except (InferenceServerException, OSError) as error:
            self.give_up(error)
            return None
        return region


def _create(name: str, size: int) -> SharedMemory:
    """Shared memory whose pages are allocated.

    A write to a page that a full file system cannot give would kill the process with SIGBUS.

    Raises:
        OSError: There is too little memory, or none at all.
    """
    memory = SharedMemory(name, create=True, size=size)
    try:
        descriptor = os.open(f"{_FOLDER}/{name}", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)
    except OSError:
        _remove(memory)
        raise
    return memory


def _remove(memory: SharedMemory) -> None:
    with suppress(OSError, BufferError):
        memory.close()
    with suppress(OSError):
        memory.unlink()
