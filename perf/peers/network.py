"""The eager network that all peers serve, with the preprocessing of this project's client."""

from __future__ import annotations

import os

import numpy as np
import torch

from client.decoding import OutputKind
from client.images import load_image
from client.preprocessing import Preprocessing
from export.formats.served import ServedNetwork
from export.network import ARCHITECTURES
from export.weights.seeded import seeded_network

ARCHITECTURE_VARIABLE = "PEER_ARCHITECTURE"
MAX_BATCH = 8
_prepare = Preprocessing()


class Eager:
    """The network with seeded weights, channels last, without gradients."""

    def __init__(self) -> None:
        architecture = ARCHITECTURES[os.environ.get(ARCHITECTURE_VARIABLE, "se-resnext101-32x4d")]
        network = ServedNetwork(seeded_network(architecture, 0), OutputKind.PROBABILITIES).eval()
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self(np.zeros((1, 3, 224, 224), np.float32))

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Float32 [batch, 3, 224, 224] to probabilities, float32 [batch, classes]."""
        with torch.inference_mode():
            return self._network(torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)).numpy()


def prepare(file: bytes) -> np.ndarray:
    """A picture's bytes to float32 [3, 224, 224]."""
    return _prepare(load_image(file))


def top5(probabilities: np.ndarray) -> list[int]:
    """The five most likely classes of one picture."""
    return np.argsort(-probabilities)[:5].tolist()
