"""The same artifact in its runtime with no server: the limit that a served figure is held against."""

from __future__ import annotations

import ctypes
import threading
import time
from pathlib import Path

import numpy as np

from client.images import load_image, sample_photographs
from client.preprocessing import Preprocessing
from export import config, manifest
from export.formats import FORMATS
from export.repository import CONFIG_FILENAME, Repository
from perf.errors import PerfError
from server import runtimes
from server.installation import KEEP_FREED_MEMORY

_MALLOPT = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_TOP_PAD_": -2, "MALLOC_MMAP_THRESHOLD_": -3}  # of malloc.h


class Raw:
    """An artifact, loaded as often as its config has instances, each with the threads that the config gives it.

    Args:
        repository: A model repository.
        model: One that this toolkit published there.
        batch: Images in one run.

    Raises:
        PerfError: There is no such model.
        ArtifactError: The artifact cannot be run here.
    """

    def __init__(self, repository: Path, model: str, batch: int) -> None:
        folder = Repository(repository).latest(model)
        facts = manifest.read(folder) if folder else None
        if folder is None or facts is None:
            raise PerfError(f"{repository} holds no model {model} that this toolkit published")
        served = config.from_text((folder.parent / CONFIG_FILENAME).read_text(encoding="utf-8"))
        parameters = {key: value.string_value for key, value in served.parameters.items()}
        artifact = folder / facts.artifacts[0]["file"]
        _allocate_as_served()
        device = "cuda:0" if served.instance_group[0].kind == served.instance_group[0].KIND_GPU else "cpu"
        self._runtimes = [
            runtimes.load(FORMATS[facts.format].runtime, artifact, parameters, device) for _ in range(served.instance_group[0].count or 1)
        ]
        prepare = Preprocessing.from_parameters(parameters)
        images = [prepare(image) for image in map(load_image, sample_photographs())]
        self._batch = np.stack([images[index % len(images)] for index in range(batch)])

    def turn(self, seconds: float) -> float:
        """Run every instance for so long, after a first run that does not count, and return images a second."""
        for runtime in self._runtimes:
            runtime.run(self._batch)
        counts = [0] * len(self._runtimes)
        started = time.perf_counter()

        def work(index: int) -> None:
            while counts[index] == 0 or time.perf_counter() - started < seconds:
                self._runtimes[index].run(self._batch)
                counts[index] += 1

        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(self._runtimes))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) * len(self._batch) / (time.perf_counter() - started)


def _allocate_as_served() -> None:
    """Give this process the allocator that the server gives its runtimes, without which TorchScript alone is slower than served."""
    libc = ctypes.CDLL(None)
    for name, value in KEEP_FREED_MEMORY.items():
        libc.mallopt(_MALLOPT[name], int(value))
