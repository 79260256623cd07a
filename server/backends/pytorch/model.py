"""Serves `platform: "pytorch_libtorch"`."""

from server.backends.batching import BatchedBackend


class TritonPythonModel(BatchedBackend):
    """TorchScript in PyTorch."""

    runtime = "torchscript"
    default_filename = "model.pt"
