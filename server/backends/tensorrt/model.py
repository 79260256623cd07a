"""Serves `platform: "tensorrt_plan"`."""

from seresnext101_triton.server.backends.backend import Backend
from seresnext101_triton.server.backends.validation import Rules


class TritonPythonModel(Backend):
    """Plans in TensorRT."""

    runtime = "tensorrt"
    default_filename = "model.plan"
    rules = Rules(exact_outputs=True)
