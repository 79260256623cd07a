"""Serves `platform: "onnxruntime_onnx"`."""

from server.backends.batching import BatchedBackend


class TritonPythonModel(BatchedBackend):
    """ONNX in ONNX Runtime."""

    runtime = "onnxruntime"
    default_filename = "model.onnx"
