"""Tensors handed over in memory that client and server share, for a server on this machine: nothing is serialised or sent."""

from __future__ import annotations

import os
import threading
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException


@dataclass(frozen=True)
class _Region:
    name: str
    size: int
    handle: Any


class SharedTensors:
    """POSIX shared memory, registered with one server, a region for each request in flight.

    Where it cannot be used (the server is on another machine, or allows it to no client, as Triton does from 26.04 on unless it is
    started with `--allow-client-shm=true`), tensors are sent as ever, after one warning.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[_Region] = []
        self._all: list[_Region] = []
        self._usable = True

    @contextmanager
    def filled(self, client: Any, tensor: Any, batch: np.ndarray) -> Iterator[None]:
        """Put a batch into an input tensor for the time of a request.

        Args:
            client: tritonclient's, to register a new region with.
            tensor: tritonclient's InferInput.
            batch: What it is to hold.
        """
        region = self._take(client, batch.nbytes) if self._usable else None
        if region is None:
            tensor.set_data_from_numpy(batch)
            yield
            return
        from tritonclient.utils import shared_memory

        try:
            shared_memory.set_shared_memory_region(region.handle, [batch])
            tensor.set_shared_memory(region.name, batch.nbytes)
            yield
        finally:
            with self._lock:
                self._free.append(region)

    def give_up(self, reason: object) -> None:
        """Share no more, and say why, once."""
        with self._lock:
            if not self._usable:
                return
            self._usable = False
        warnings.warn(f"no shared memory with this server, tensors are sent instead: {reason}", RuntimeWarning, stacklevel=2)

    def close(self, client: Any) -> None:
        """Take every region back."""
        from tritonclient.utils import shared_memory

        with self._lock:
            regions, self._all, self._free = self._all, [], []
        for region in regions:
            with suppress(InferenceServerException, OSError):
                client.unregister_system_shared_memory(region.name)
            with suppress(shared_memory.SharedMemoryException):
                shared_memory.destroy_shared_memory_region(region.handle)

    def _key(self, name: str) -> str:
        """What the server finds a region by."""
        return f"/{name}"

    def _take(self, client: Any, size: int) -> _Region | None:
        with self._lock:
            for region in self._free:
                if region.size >= size:
                    self._free.remove(region)
                    return region
        try:
            from tritonclient.utils import shared_memory

            name = f"client-{os.getpid()}-{uuid.uuid4().hex[:8]}"
            handle = shared_memory.create_shared_memory_region(name, f"/{name}", size)
        except (ImportError, OSError, shared_memory.SharedMemoryException) as error:
            self.give_up(error)
            return None
        region = _Region(name, size, handle)
        with self._lock:
            self._all.append(region)
        try:
            client.register_system_shared_memory(name, self._key(name), size)
        except (InferenceServerException, OSError) as error:
            self.give_up(error)
            return None
        return region
