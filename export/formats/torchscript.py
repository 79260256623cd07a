"""TorchScript, for Triton's PyTorch backend.

PyTorch has deprecated TorchScript. It is the format of that backend that every release serves, on
any device; `seresnext101_triton.export.formats.pt2` is its successor.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from seresnext101_triton.export.format import INPUT, OUTPUT, Format
from seresnext101_triton.export.precision import FP16, FP32

if TYPE_CHECKING:
    from tritonclient.grpc import model_config_pb2 as pb

    from seresnext101_triton.export.material import Material
    from seresnext101_triton.export.reporting import Reporter


class TorchScript(Format):
    """A traced and frozen module."""

    name = "torchscript"
    summary = "for CPUs and GPUs"
    runtime = "torchscript"
    platform = "pytorch_libtorch"
    filename = "model.pt"
    thread_parameter = "INTRA_OP_THREAD_COUNT"
    packages = ("torch",)
    precisions = (FP32, FP16)

    def export(self, material: Material, folder: Path, reporter: Reporter) -> None:
        """Trace and freeze the network with weights in channels-last layout, as NVIDIA trained it.

        Weights become constants, and no device is named, so that the artifact loads on any.
        """
        import torch

        from seresnext101_triton.server.runtimes.torchscript import TENSORS_ENTRY

        example = material.example
        layout = torch.channels_last
        network = material.network.to(memory_format=layout)  # type: ignore[call-overload]
        # A traced convolution keeps whether it may compute in TF32, for every GPU that it will run
        # on. What is FP32 in the network is FP32 in the artifact.
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.no_grad(), exact:
            frozen = torch.jit.freeze(torch.jit.trace(network, example, check_trace=False))
            output = network(example)
        tensors = {
            name: {
                "dims": list(tensor.shape[1:]),
                "dtype": str(tensor.dtype).removeprefix("torch."),
            }
            for name, tensor in ((INPUT, example), (OUTPUT, output))
        }
        # Through memory: on a full disk, torch's own file writer ends the whole process.
        with (folder / self.filename).open("wb") as file:
            torch.jit.save(frozen, file, _extra_files={TENSORS_ENTRY: json.dumps(tensors)})

    def tune_gpu(self, config: pb.ModelConfig) -> None:
        """Let all instances on a device share one copy of the weights."""
        config.parameters["INFERENCE_MODE"].string_value = "true"
        config.parameters["ENABLE_WEIGHT_SHARING"].string_value = "true"
