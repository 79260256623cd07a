"""Runs an exported program, `model.pt2`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from seresnext101_triton.server.runtimes import Runtime, TensorSpec


class ExportedProgram(Runtime):
    """PyTorch's eager interpreter of an exported program."""

    def __init__(self, artifact: Path, parameters: Mapping[str, str], device: str) -> None:
        torch.set_num_threads(int(parameters.get("threads", "0")) or 1)
        self._module = torch.export.load(str(artifact)).module()
        self.input, self.output = TensorSpec("INPUT__0", ()), TensorSpec("OUTPUT__0", ())

    def run(self, batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self._module(
                torch.from_numpy(np.require(batch, requirements=["C", "W"]))
            ).numpy()
