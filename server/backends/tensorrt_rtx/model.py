"""Serves `backend: "tensorrt_rtx"`, which Triton has no C++ backend for."""

from seresnext101_triton.server.backends.backend import Backend
from seresnext101_triton.server.backends.validation import Rules


class TritonPythonModel(Backend):
    """Engines in TensorRT for RTX."""

    runtime = "tensorrt_rtx"
    default_filename = "model.engine"
    rules = Rules(exact_outputs=True)
