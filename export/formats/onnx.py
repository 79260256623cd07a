"""ONNX, for Triton's ONNX Runtime backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from seresnext101_triton.export.format import Format
from seresnext101_triton.export.precision import FP16, FP32, INT8, Precision

if TYPE_CHECKING:
    from tritonclient.grpc import model_config_pb2 as pb

    from seresnext101_triton.export.material import Material
    from seresnext101_triton.export.reporting import Reporter


class Onnx(Format):
    """The network's ONNX as it is."""

    name = "onnx"
    summary = "ONNX Runtime, for CPUs and GPUs"
    runtime = "onnxruntime"
    platform = "onnxruntime_onnx"
    filename = "model.onnx"
    thread_parameter = "intra_op_thread_count"
    packages = ("torch", "onnxscript", "onnx")
    precisions: tuple[Precision, ...] = (FP32, FP16, INT8)
    from_onnx = True

    def export(self, material: Material, folder: Path, reporter: Reporter) -> None:
        """Put the one ONNX file of this precision into the folder."""
        from seresnext101_triton.server.folders import link

        link(str(material.graph), str(folder / self.filename))

    def is_for_tensorrt(self, precision: Precision) -> bool:
        """In INT8 it is made for TensorRT: ONNX Runtime alone runs it too, and slowly."""
        return precision.quantized

    def tune_gpu(self, config: pb.ModelConfig) -> None:
        """Use the CUDA provider.

        The two parameters belong at the top level: the backend overwrites them there, the first
        with an EXHAUSTIVE search. That search tries every algorithm anew for every batch size that
        the batcher forms; HEURISTIC (1) asks cuDNN instead. The second is kSameAsRequested: no
        memory beyond what batches need.

        Source: onnxruntime_backend, src/onnxruntime.cc, ModelState::LoadModel.
        """
        config.parameters["cudnn_conv_algo_search"].string_value = "1"
        config.parameters["arena_extend_strategy"].string_value = "1"
        accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
        provider = accelerators.add(name="cuda")
        provider.parameters["cudnn_conv_use_max_workspace"] = "1"
