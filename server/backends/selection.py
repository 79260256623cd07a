"""Which file of a version an instance loads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def artifact_filename(config: Mapping[str, Any], default: str, device: str) -> str:
    """The name that Triton's C++ backends would choose.

    Args:
        config: The model's config, as JSON.
        default: The backend's own choice, where the config names none.
        device: `cpu`, or `cuda:N`: a config may tell artifacts apart by a GPU's compute capability.
    """
    by_capability = config.get("cc_model_filenames", {})
    if by_capability and device != "cpu":
        import torch

        if found := by_capability.get("{}.{}".format(*torch.cuda.get_device_capability(device))):
            return str(found)
    return str(config["default_model_filename"] or default)
