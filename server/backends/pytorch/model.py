"""Serves `platform: "pytorch_libtorch"`, and `platform: "torch_aoti"` of newer releases."""

from collections.abc import Mapping
from typing import Any

from seresnext101_triton.server.backends.backend import Backend
from seresnext101_triton.server.backends.validation import Rules


class TritonPythonModel(Backend):
    """TorchScript and AOTInductor packages in PyTorch."""

    runtime = "torchscript"
    default_filename = "model.pt"
    rules = Rules(names=False)

    def _load(self, config: Mapping[str, Any], args: Mapping[str, str]) -> None:
        if config["default_model_filename"].endswith(".pt2"):
            self.runtime = "pt2"
        super()._load(config, args)
