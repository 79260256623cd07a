"""TorchScript, for Triton's PyTorch backend.

TorchScript is deprecated in PyTorch, and still what that backend wants: its successor there, `torch_aoti`, takes no batch above 1.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from export.formats import INPUT, OUTPUT
from export.formats.material import Material
from server.runtimes.torchscript import TENSORS_ENTRY


def export(material: Material, folder: Path) -> None:
    """Trace and freeze, with weights laid out channels-last, as NVIDIA trained them: inside, everything runs NHWC.

    Weights become constants, and no device is named, so that the artifact loads on any.
    """
    network = material.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        frozen = torch.jit.freeze(torch.jit.trace(network, material.example, check_trace=False))
        output = network(material.example)
    tensors = {INPUT: list(material.example.shape[1:]), OUTPUT: list(output.shape[1:])}
    # Through memory: on a full disk, torch's own file writer ends the whole process.
    with (folder / "model.pt").open("wb") as file:
        torch.jit.save(frozen, file, _extra_files={TENSORS_ENTRY: json.dumps(tensors)})
