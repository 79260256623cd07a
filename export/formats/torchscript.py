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
    """Trace and freeze: BatchNorm is folded away, weights are constants, and no device is named, so that it loads on any.

    Args:
        network: In eval mode, on the CPU.
        example: float32 [2, 3, H, W].
        max_batch: Not needed; the batch axis is free.
        path: Where the artifact goes.
    """
    with torch.no_grad():
        frozen = torch.jit.freeze(torch.jit.trace(network, example, check_trace=False))
        tensors = {INPUT: list(example.shape[1:]), OUTPUT: list(network(example).shape[1:])}
        torch.jit.save(frozen, str(path), _extra_files={TENSORS_ENTRY: json.dumps(tensors)})
