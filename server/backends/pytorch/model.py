"""Serves `platform: "pytorch_libtorch"`."""

from seresnext101_triton.server.backends.backend import Backend
from seresnext101_triton.server.backends.validation import Rules


class TritonPythonModel(Backend):
    """TorchScript in PyTorch."""

    runtime = "torchscript"
    default_filename = "model.pt"
    rules = Rules(names=False)
