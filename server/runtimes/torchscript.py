"""TorchScript artifacts (`model.pt`), with the parameters of Triton's PyTorch backend."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from server.cores import usable_cores
from server.errors import ArtifactError
from server.runtimes.base import Runtime, TensorSpec, flag, thread_count

# Deprecated in PyTorch, and still what Triton's PyTorch backend serves.
warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is (deprecated|not supported)", DeprecationWarning)

# A TorchScript graph does not say its shapes, so the exporter writes them into the archive. LibTorch ignores the entry.
TENSORS_ENTRY = "tensors.json"


class TorchScript(Runtime):
    """Runs a traced or scripted module as LibTorch does.

    Honours INTRA_OP_THREAD_COUNT, INTER_OP_THREAD_COUNT, DISABLE_OPTIMIZED_EXECUTION and INFERENCE_MODE.
    """

    def __init__(self, artifact: Path, parameters: Mapping[str, str], device: str) -> None:
        torch.set_num_threads(thread_count(parameters, "INTRA_OP_THREAD_COUNT") or usable_cores())
        if threads := thread_count(parameters, "INTER_OP_THREAD_COUNT"):
            torch.set_num_interop_threads(threads)
        self._optimized = not flag(parameters, "DISABLE_OPTIMIZED_EXECUTION", default=False)
        self._inference_mode = flag(parameters, "INFERENCE_MODE", default=True)
        self._device = torch.device(device)
        entries = {TENSORS_ENTRY: ""}
        try:
            self._module = torch.jit.load(str(artifact), map_location=self._device, _extra_files=entries).eval()
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(f"{artifact} cannot be loaded as TorchScript: {str(error).splitlines()[0]}") from None
        tensors = json.loads(entries[TENSORS_ENTRY] or "{}")
        self.input, self.output = (TensorSpec(name, tuple(tensors.get(name, ()))) for name in ("INPUT__0", "OUTPUT__0"))

    def run(self, batch: np.ndarray) -> np.ndarray:
        # Triton's buffers are read-only to numpy, which torch warns about; nothing here writes to its input.
        batch = np.require(batch, requirements=["C", "W"])
        with torch.inference_mode(self._inference_mode), torch.jit.optimized_execution(self._optimized):  # type: ignore[attr-defined]
            output = self._module(torch.from_numpy(batch).to(self._device))
        return output.detach().cpu().numpy()
