"""Serves `platform: "tensorrt_plan"`."""

from server.backends.backend import Backend


class TritonPythonModel(Backend):
    """Plans in TensorRT."""

    runtime = "tensorrt"
    default_filename = "model.plan"
