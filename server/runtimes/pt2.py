"""Runs AOTInductor packages (`model.pt2`) with the parameters of Triton's PyTorch backend."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from seresnext101_triton.server.cores import usable_cores
from seresnext101_triton.server.errors import ArtifactError
from seresnext101_triton.server.runtimes.base import Runtime, TensorSpec, flag, thread_count

# Entries of the package's metadata. The exporter writes the first two, PyTorch the third.
TENSORS_ENTRY = "tensors"
MAX_BATCH_ENTRY = "max_batch"
_DEVICE_ENTRY = "AOTI_DEVICE_KEY"
# The name of the only model in a package, as Triton's backend and PyTorch's exporter have it.
_MODEL = "model"
# Switches of the C++ backend without an effect here. Their values are only checked.
_FLAGS = (
    "CACHE_CLEANING_ENABLED",
    "DISABLE_CUDNN",
    "DISABLE_OPTIMIZED_EXECUTION",
    "ENABLE_WEIGHT_SHARING",
    "INFERENCE_MODE",
)
# What `-march=x86-64-v3` needs of a processor, of which all that have AVX2 have the rest.
_CPU_INFO = Path("/proc/cpuinfo")
_CPU_FLAG = "avx2"


class Pt2(Runtime):
    """Runs a package as Triton's PyTorch backend does with `platform: "torch_aoti"`.

    It uses the parameters INTRA_OP_THREAD_COUNT and INTER_OP_THREAD_COUNT. A package holds machine
    code, which is run when it is loaded. So whether this machine can run it is found out before.
    """

    def __init__(self, artifact: Path, parameters: Mapping[str, str], device: str) -> None:
        intra, inter = (
            thread_count(parameters, f"{kind}_OP_THREAD_COUNT") for kind in ("INTRA", "INTER")
        )
        for name in _FLAGS:
            flag(parameters, name)
        torch.set_num_threads(intra or usable_cores())
        if inter:
            with suppress(RuntimeError):  # it can be set once in a process, also in the C++ backend
                torch.set_num_interop_threads(inter)
        if device != "cpu":
            raise ArtifactError(f"{artifact} is served on CPUs only, and not on {device}")
        if not has_avx2():
            raise ArtifactError(f"{artifact} was compiled for AVX2, which this processor lacks")
        # The class behind `torch._inductor.aoti_load_package`. That function also imports
        # PyTorch's compiler, and warns of every processor with more instructions than it needs.
        loader = torch._C._aoti.AOTIModelPackageLoader
        try:
            metadata = loader.load_metadata_from_package(  # type: ignore[attr-defined]
                str(artifact), _MODEL
            )
            if (made_for := metadata.get(_DEVICE_ENTRY)) != device:
                raise ArtifactError(f"{artifact} was compiled for {made_for}, and not for a CPU")
            self._loader = loader(str(artifact), _MODEL, False, 1, -1)
        except RuntimeError as error:
            why = (str(error).splitlines() or ["it does not say why"])[0]
            raise ArtifactError(
                f"{artifact} cannot be loaded as AOTInductor package: {why}"
            ) from None
        self.input, self.output, self._largest = _tensors(artifact, metadata)

    def run(self, batch: np.ndarray) -> np.ndarray:
        # The machine code trusts its input's type and shape.
        if batch.dtype != self.input.dtype or batch.shape[1:] != self.input.dims:
            raise ArtifactError(
                f"the package takes {self.input.dtype} images of {list(self.input.dims)}, not "
                f"{batch.dtype} of {list(batch.shape[1:])}"
            )
        if not 1 <= len(batch) <= self._largest:
            raise ArtifactError(
                f"the package takes batches of 1 to {self._largest}, not {len(batch)}"
            )
        batch = np.require(batch, requirements=["C", "W"])
        with torch.inference_mode():
            (scores,) = self._loader.run([torch.from_numpy(batch)])
        return scores.numpy()


def has_avx2() -> bool:
    """Whether the processor can run what is compiled for x86-64-v3."""
    try:
        return f" {_CPU_FLAG} " in _CPU_INFO.read_text()
    except OSError:
        return False


def _tensors(artifact: Path, metadata: Mapping[str, str]) -> tuple[TensorSpec, TensorSpec, int]:
    """Input, output and the largest batch, which only the exporter's metadata has.

    Raises:
        ArtifactError: They are not there.
    """
    try:
        known = json.loads(metadata[TENSORS_ENTRY])
        source, target = (
            TensorSpec(name, tuple(map(int, known[name]["dims"])), dtype=known[name]["dtype"])
            for name in ("INPUT__0", "OUTPUT__0")
        )
        _ = source.triton_type, target.triton_type  # a type that no server has is a KeyError
        return source, target, int(metadata[MAX_BATCH_ENTRY])
    except (KeyError, ValueError, TypeError, AttributeError):
        raise ArtifactError(
            f"{artifact} does not say the shapes of its tensors: make it with `python -m export`"
        ) from None
