"""The network as PyTorch itself runs it, without export: what every other way is compared with."""

from __future__ import annotations

import time

import numpy as np
import torch

from seresnext101_triton.client.contract import OutputKind, Preprocessing
from seresnext101_triton.client.images import load_image, sample_photographs
from seresnext101_triton.export.network import ARCHITECTURES, Architecture
from seresnext101_triton.export.served import ServedNetwork
from seresnext101_triton.export.weights.seeded import seeded_network
from seresnext101_triton.perf.errors import UsageError
from seresnext101_triton.perf.records import check_batch


def architecture_named(name: str) -> Architecture:
    """The architecture with this name.

    Raises:
        UsageError: There is none.
    """
    if name not in ARCHITECTURES:
        choices = ", ".join(ARCHITECTURES)
        raise UsageError(f"unknown architecture {name}: choose from {choices}")
    return ARCHITECTURES[name]


def photographs(preprocessing: Preprocessing, batch: int) -> np.ndarray:
    """A batch of this project's photographs, as a model takes them, [batch, ...].

    Raises:
        UsageError: It would fill the memory.
    """
    check_batch(batch)
    images = [preprocessing.prepared(load_image(path)) for path in sample_photographs()]
    return np.stack([images[index % len(images)] for index in range(batch)])


class EagerNetwork:
    """The network with seeded weights, channels last, without gradients.

    Args:
        architecture: A key of `seresnext101_triton.export.network.ARCHITECTURES`.

    Raises:
        UsageError: There is no such architecture.
    """

    def __init__(self, architecture: str) -> None:
        seeded = seeded_network(architecture_named(architecture), 0)
        network = ServedNetwork(seeded, OutputKind.PROBABILITIES).eval()
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self(np.zeros((1, 3, 224, 224), np.float32))

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Compute probabilities, float32 [batch, classes], from float32 [batch, 3, 224, 224]."""
        with torch.inference_mode():
            images = torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)
            return self._network(images).numpy()

    def throughput(self, batch: np.ndarray, seconds: float) -> float:
        """Run the same batch for a number of seconds, after one warm-up run: images per second."""
        self(batch)
        count, started = 0, time.perf_counter()
        while not count or time.perf_counter() - started < seconds:
            self(batch)
            count += len(batch)
        return count / (time.perf_counter() - started)


def top5(probabilities: np.ndarray) -> list[int]:
    """The five most probable classes of one image."""
    return np.argsort(-probabilities)[:5].tolist()
