"""One small adapter for each runtime. It loads an artifact and maps an array to an array.

The backends serve artifacts with these adapters, and the parity gate tests artifacts with the same
adapters. To add a runtime, add a module with a subclass of `Runtime` and a line to `RUNTIMES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from seresnext101_triton.server.errors import InstallationError
from seresnext101_triton.server.runtimes.base import Runtime, TensorSpec

__all__ = ["RUNTIMES", "Runtime", "TensorSpec", "load"]

RUNTIMES = {
    "onnxruntime": "seresnext101_triton.server.runtimes.onnxruntime:OnnxRuntime",
    "openvino": "seresnext101_triton.server.runtimes.openvino:OpenVino",
    "pt2": "seresnext101_triton.server.runtimes.pt2:Pt2",
    "tensorrt": "seresnext101_triton.server.runtimes.tensorrt:TensorRT",
    "tensorrt_rtx": "seresnext101_triton.server.runtimes.tensorrt_rtx:TensorRTRtx",
    "torchscript": "seresnext101_triton.server.runtimes.torchscript:TorchScript",
}

# The extra that installs each package of a runtime.
_EXTRAS = {
    "onnxruntime": "serve-onnx",
    "openvino": "serve-openvino",
    "tensorrt": "gpu",
    "tensorrt_rtx_bindings": "rtx",
    "torch": "serve-torchscript",
}


def load(
    runtime: str, artifact: Path, parameters: Mapping[str, str], device: str = "cpu"
) -> Runtime:
    """Load an artifact.

    Args:
        runtime: A key of `RUNTIMES`, or a subclass of `Runtime` from elsewhere as `module:class`.
        artifact: The file.
        parameters: The model's `parameters` of config.pbtxt, with the names of the C++ backend that
            serves the same artifact.
        device: `cpu`, or `cuda:N`.

    Raises:
        ArtifactError: The artifact is missing, or the runtime cannot run it.
        InstallationError: A package of the runtime is not installed.
    """
    module, name = RUNTIMES.get(runtime, runtime).split(":")
    try:
        adapter: type[Runtime] = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        raise InstallationError(
            f"{artifact.name} needs {error.name}, which is not installed: "
            f"pip install '.[{_EXTRAS[error.name]}]'"
        ) from None
    return adapter(artifact, parameters, device)
