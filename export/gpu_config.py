"""What each of Triton's backends is told about a GPU: the knobs of its config.pbtxt, in its own names."""

from __future__ import annotations

from collections.abc import Sequence

from tritonclient.grpc import model_config_pb2 as pb

from export.formats import INPUT, Format
from server import ENGINE_CACHE


def tune(config: pb.ModelConfig, format: Format, dims: Sequence[int]) -> None:
    """Add a backend's GPU knobs to a model's config.

    Args:
        config: Complete but for them.
        format: What is served.
        dims: Shape of the input without the batch axis.
    """
    {
        "torchscript": _libtorch,
        "onnx": _onnxruntime_cuda,
        "onnx_trt": _onnxruntime_tensorrt,
        "tensorrt": _tensorrt,
    }[format.name](config, dims)


def _libtorch(config: pb.ModelConfig, dims: Sequence[int]) -> None:
    config.parameters["INFERENCE_MODE"].string_value = "true"
    config.parameters["ENABLE_WEIGHT_SHARING"].string_value = "true"  # one copy of the weights for all instances on a device


def _onnxruntime_cuda(config: pb.ModelConfig, dims: Sequence[int]) -> None:
    """CUDA provider. These two belong at the top level: the backend overwrites them there, the first with an EXHAUSTIVE search.

    That search tries every algorithm anew for every batch size the batcher forms; HEURISTIC (1) asks cuDNN instead.
    Source: onnxruntime_backend, src/onnxruntime.cc, ModelState::LoadModel.
    """
    config.parameters["cudnn_conv_algo_search"].string_value = "1"
    config.parameters["arena_extend_strategy"].string_value = "1"  # kSameAsRequested: no memory beyond what batches need
    provider = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="cuda")
    provider.parameters["cudnn_conv_use_max_workspace"] = "1"


def _onnxruntime_tensorrt(config: pb.ModelConfig, dims: Sequence[int]) -> None:
    """TensorRT provider, with the CUDA provider behind it. Precision is the graph's own; engines are kept, since one takes minutes."""
    _onnxruntime_cuda(config, dims)
    provider = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    for name, batch in {"min": 1, "opt": config.max_batch_size, "max": config.max_batch_size}.items():
        provider.parameters[f"trt_profile_{name}_shapes"] = f"{INPUT}:{'x'.join(map(str, (batch, *dims)))}"
    for kind in ("engine", "timing"):
        provider.parameters[f"trt_{kind}_cache_enable"] = "1"
        provider.parameters[f"trt_{kind}_cache_path"] = ENGINE_CACHE


def _tensorrt(config: pb.ModelConfig, dims: Sequence[int]) -> None:
    """A CUDA graph for every batch size. Left alone, a model with dynamic batching gets them for 1 and the maximum only.

    Source: tensorrt_backend, src/instance_state.cc, InitializeGraphSpecs.
    """
    config.optimization.cuda.graphs = True
    for batch in range(1, config.max_batch_size + 1):
        config.optimization.cuda.graph_spec.add(batch_size=batch)
