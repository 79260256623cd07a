"""Serves `platform: "onnxruntime_onnx"`."""

from server.backends.backend import Backend


class TritonPythonModel(Backend):
    """ONNX in ONNX Runtime."""

    runtime = "onnxruntime"
    default_filename = "model.onnx"
