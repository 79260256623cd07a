"""One small adapter per runtime: it loads an artifact and maps an array to an array.

The backends serve artifacts through these adapters, and the parity gate runs them through the same ones, so that what was proven is what
is served. Adding a runtime is adding a module with a subclass of `Runtime`, and a line to `RUNTIMES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from server.runtimes.base import Runtime, TensorSpec

__all__ = ["RUNTIMES", "Runtime", "TensorSpec", "load"]

RUNTIMES = {
    "onnxruntime": "server.runtimes.onnxruntime:OnnxRuntime",
    "openvino": "server.runtimes.openvino:OpenVino",
    "tensorrt": "server.runtimes.tensorrt:TensorRT",
    "torchscript": "server.runtimes.torchscript:TorchScript",
}


def load(runtime: str, artifact: Path, parameters: Mapping[str, str], device: str = "cpu") -> Runtime:
    """Load an artifact.

    Args:
        runtime: A key of `RUNTIMES`.
        artifact: The file.
        parameters: The model's `parameters` of config.pbtxt, in the names of the C++ backend that serves the same artifact.
        device: `cpu`, or `cuda:N`.

    Raises:
        ArtifactError: It is not there, or not what the runtime can run.
    """
    module, name = RUNTIMES[runtime].split(":")
    adapter: type[Runtime] = getattr(import_module(module), name)
    return adapter(artifact, parameters, device)
