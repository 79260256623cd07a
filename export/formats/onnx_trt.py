"""ONNX that Triton's ONNX Runtime backend gives to TensorRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seresnext101_triton.export.format import INPUT
from seresnext101_triton.export.formats.onnx import Onnx
from seresnext101_triton.export.precision import FP16, FP32, Precision
from seresnext101_triton.server import ENGINE_CACHE

if TYPE_CHECKING:
    from tritonclient.grpc import model_config_pb2 as pb


class OnnxTensorRT(Onnx):
    """The same artifact as `Onnx`, served through TensorRT."""

    name = "onnx_trt"
    summary = "ONNX through TensorRT in ONNX Runtime, for GPUs"
    precisions = (FP32, FP16)
    default_precision = FP16
    cpu_precisions = ()
    devices = ("gpu",)

    def is_for_tensorrt(self, precision: Precision) -> bool:
        return True

    def tune_gpu(self, config: pb.ModelConfig) -> None:
        """Use the TensorRT provider, with the CUDA provider behind it.

        The precision is the graph's own. Engines are kept, because building one takes minutes.
        """
        super().tune_gpu(config)
        accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
        provider = accelerators.add(name="tensorrt")
        largest = config.max_batch_size
        for name, batch in {"min": 1, "opt": largest, "max": largest}.items():
            shape = "x".join(map(str, (batch, *config.input[0].dims)))
            provider.parameters[f"trt_profile_{name}_shapes"] = f"{INPUT}:{shape}"
        for kind in ("engine", "timing"):
            provider.parameters[f"trt_{kind}_cache_enable"] = "1"
            provider.parameters[f"trt_{kind}_cache_path"] = ENGINE_CACHE
