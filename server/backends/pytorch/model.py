"""Serves `platform: "pytorch_libtorch"`."""

from server.backends.backend import Backend


class TritonPythonModel(Backend):
    """TorchScript in PyTorch."""

    runtime = "torchscript"
    default_filename = "model.pt"
