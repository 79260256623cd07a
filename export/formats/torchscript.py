"""TorchScript, for Triton's PyTorch backend.

TorchScript is deprecated in PyTorch, and still what that backend wants: its successor there, `torch_aoti`, takes no batch above 1.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from export.formats import INPUT, OUTPUT
from export.formats.served import ServedNetwork
from server.runtimes.torchscript import TENSORS_ENTRY


def export(network: ServedNetwork, example: Tensor, max_batch: int, path: Path) -> None:
    """Trace and freeze, with weights laid out channels-last, as NVIDIA trained them: inside, everything runs NHWC.

    Weights become constants, and no device is named, so that the artifact loads on any.

    Args:
        network: In eval mode, on the CPU, BatchNorm folded; its memory layout is changed.
        example: float32 [2, 3, H, W].
        max_batch: Not needed; the batch axis is free.
        path: Where the artifact goes.
    """
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        frozen = torch.jit.freeze(torch.jit.trace(network, example, check_trace=False))
        tensors = {INPUT: list(example.shape[1:]), OUTPUT: list(network(example).shape[1:])}
    # Through memory: on a full disk, torch's own file writer ends the whole process.
    with path.open("wb") as file:
        torch.jit.save(frozen, file, _extra_files={TENSORS_ENTRY: json.dumps(tensors)})
