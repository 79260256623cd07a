"""Serves `platform: "onnxruntime_onnx"`."""

from seresnext101_triton.server.backends.backend import Backend
from seresnext101_triton.server.backends.validation import Rules


class TritonPythonModel(Backend):
    """ONNX in ONNX Runtime."""

    runtime = "onnxruntime"
    default_filename = "model.onnx"
    rules = Rules(completes=True, exact_outputs=True)
