"""An artifact in its runtime, without a server: the limit for the served model's throughput."""

from __future__ import annotations

import ctypes
import threading
import time
from pathlib import Path

from seresnext101_triton.perf.eager import photographs
from seresnext101_triton.perf.published import PublishedModel
from seresnext101_triton.server import runtimes
from seresnext101_triton.server.installation import KEEP_FREED_MEMORY

# The numbers of the parameters in malloc.h.
_MALLOPT = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_TOP_PAD_": -2, "MALLOC_MMAP_THRESHOLD_": -3}


class RawModel:
    """A published model, loaded into its runtime in this process.

    It has as many instances as its config says, each with the threads that the config says.

    Args:
        repository: The model repository.
        model: The name of a model that this toolkit published there.
        batch: The number of images in one run.

    Raises:
        PerfError: There is no such model.
        ArtifactError: The artifact cannot run on this machine.
    """

    def __init__(self, repository: Path, model: str, batch: int) -> None:
        published = PublishedModel.find(repository, model)
        device = "cuda:0" if published.on_gpu else "cpu"
        self._runtimes = [
            runtimes.load(
                published.format.runtime, published.artifact, published.parameters, device
            )
            for _ in range(published.instances)
        ]
        self._batch = photographs(published.preprocessing, batch)

    def throughput(self, seconds: float) -> float:
        """Run all instances at the same time, and return images per second.

        Args:
            seconds: The duration of the measurement, after one run of each instance as warm-up.
        """
        for runtime in self._runtimes:
            runtime.run(self._batch)
        counts = [0] * len(self._runtimes)
        started = time.perf_counter()

        def work(index: int) -> None:
            while counts[index] == 0 or time.perf_counter() - started < seconds:
                self._runtimes[index].run(self._batch)
                counts[index] += 1

        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(counts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) * len(self._batch) / (time.perf_counter() - started)


def use_server_allocator() -> None:
    """Give this process the settings of malloc that the server gives its runtimes.

    Without them, TorchScript alone is slower than served. They hold until the process ends, so
    only a command calls this function, before it makes a `RawModel`.
    """
    libc = ctypes.CDLL(None)
    for name, value in KEEP_FREED_MEMORY.items():
        libc.mallopt(_MALLOPT[name], int(value))
