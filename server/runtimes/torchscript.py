"""Runs TorchScript artifacts (`model.pt`) with the parameters of Triton's PyTorch backend."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from seresnext101_triton.server.cores import usable_cores
from seresnext101_triton.server.errors import ArtifactError
from seresnext101_triton.server.runtimes.base import Runtime, TensorSpec, flag, thread_count

# Switches of the C++ backend without an effect here. Their values are only checked.
_OTHER_FLAGS = (
    "DISABLE_CUDNN",
    "ENABLE_CACHE_CLEANING",
    "ENABLE_JIT_EXECUTOR",
    "ENABLE_JIT_PROFILING",
    "ENABLE_NVFUSER",
    "ENABLE_TENSOR_FUSER",
    "ENABLE_WEIGHT_SHARING",
)

# A TorchScript graph does not hold its shapes. The exporter writes them into this entry of the
# archive, which LibTorch ignores.
TENSORS_ENTRY = "tensors.json"


class TorchScript(Runtime):
    """Runs a traced or scripted module as LibTorch does.

    It uses the parameters INTRA_OP_THREAD_COUNT, INTER_OP_THREAD_COUNT,
    DISABLE_OPTIMIZED_EXECUTION and INFERENCE_MODE. PyTorch has one number of threads for the whole
    process.
    """

    def __init__(self, artifact: Path, parameters: Mapping[str, str], device: str) -> None:
        intra, inter = (
            thread_count(parameters, f"{kind}_OP_THREAD_COUNT") for kind in ("INTRA", "INTER")
        )
        self._optimized = not flag(parameters, "DISABLE_OPTIMIZED_EXECUTION")
        self._inference_mode = flag(parameters, "INFERENCE_MODE", default=True)
        for name in _OTHER_FLAGS:
            flag(parameters, name)
        torch.set_num_threads(intra or usable_cores())
        if inter:
            with suppress(RuntimeError):  # it can be set once in a process, also in the C++ backend
                torch.set_num_interop_threads(inter)
        self._device = torch.device(device)
        entries = {TENSORS_ENTRY: ""}
        try:
            with warnings.catch_warnings():
                # Triton's PyTorch backend still serves TorchScript, which PyTorch has deprecated.
                warnings.simplefilter("ignore", DeprecationWarning)
                module = torch.jit.load(
                    str(artifact), map_location=self._device, _extra_files=entries
                )
            self._module = module.eval()
        except (RuntimeError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise ArtifactError(f"{artifact} cannot be loaded as TorchScript: {why}") from None
        self.input, self.output = _tensors(entries[TENSORS_ENTRY])

    def run(self, batch: np.ndarray) -> np.ndarray:
        # torch warns of Triton's buffers, which are read-only. Nothing here writes to the input.
        batch = np.require(batch, requirements=["C", "W"])
        optimized = torch.jit.optimized_execution(self._optimized)  # type: ignore[attr-defined]
        with torch.inference_mode(self._inference_mode), optimized:
            output = self._module(torch.from_numpy(batch).to(self._device))
        return output.detach().cpu().numpy()


def _tensors(entry: str | bytes) -> tuple[TensorSpec, TensorSpec]:
    """Input and output from the archive; without dims if the entry is missing or invalid."""
    names = "INPUT__0", "OUTPUT__0"
    try:
        known = json.loads(entry or "{}")
        source, target = (
            TensorSpec(name, tuple(map(int, known[name]["dims"])), dtype=known[name]["dtype"])
            for name in names
        )
        _ = source.triton_type, target.triton_type  # a type that no server has is a KeyError
    except (ValueError, TypeError, KeyError):
        source, target = (TensorSpec(name, ()) for name in names)
    return source, target
