"""ONNX artifacts (`model.onnx`), with the parameters of Triton's ONNX Runtime backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from seresnext101_triton.server.cores import usable_cores
from seresnext101_triton.server.errors import ArtifactError
from seresnext101_triton.server.runtimes.base import (
    Runtime,
    TensorSpec,
    flag,
    integer,
    thread_count,
)

_TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}
_CUDA = "CUDAExecutionProvider"


class OnnxRuntime(Runtime):
    """Runs an ONNX graph.

    It uses the parameters intra_op_thread_count, inter_op_thread_count, execution_mode,
    enable_mem_arena and enable_mem_pattern.
    """

    def __init__(self, artifact: Path, parameters: Mapping[str, str], device: str) -> None:
        options = _options(parameters)
        try:
            self._session = onnxruntime.InferenceSession(
                str(artifact), options, providers=_providers(device)
            )
        except ArtifactError:
            raise
        except Exception as error:  # noqa: BLE001  (onnxruntime's errors have no other base)
            why = (str(error).splitlines() or ["it does not say why"])[0]
            raise ArtifactError(f"{artifact} cannot be loaded by ONNX Runtime: {why}") from None
        if device != "cpu" and _CUDA not in self._session.get_providers():
            raise ArtifactError(  # ONNX Runtime would go on with the CPU, after a line in its log
                f"{artifact} cannot be run on {device}: ONNX Runtime cannot load CUDA or cuDNN; "
                "the log before this line has its reason"
            )
        self.input = _only(artifact, "input", self._session.get_inputs())
        self.output = _only(artifact, "output", self._session.get_outputs())

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self._session.run([self.output.name], {self.input.name: batch})[0]


def _options(parameters: Mapping[str, str]) -> Any:
    """The backend's parameters as ONNX Runtime's options.

    Raises:
        ArtifactError: A value is not one that the backend takes.
    """
    options = onnxruntime.SessionOptions()
    threads = thread_count(parameters, "intra_op_thread_count")
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = thread_count(parameters, "inter_op_thread_count")
    mode = integer(parameters, "execution_mode")
    if mode not in (0, 1):
        raise ArtifactError(
            "parameter execution_mode must be 0 (sequential) or 1 (parallel), not "
            f"{parameters['execution_mode']!r}"
        )
    if mode:
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = flag(parameters, "enable_mem_arena", default=True)
    options.enable_mem_pattern = flag(parameters, "enable_mem_pattern", default=True)
    # Each instance is a process of its own here. The value is only checked.
    flag(parameters, "share_session_between_instances")
    return options


def _only(artifact: Path, kind: str, nodes: Sequence[Any]) -> TensorSpec:
    """The only input or output of a graph.

    Raises:
        ArtifactError: There is not exactly one, or it is not a tensor with a batch axis. An output
            must be FP32, an input FP32 or UINT8.
    """
    found = ", ".join(f"{node.name} {node.type} {node.shape}" for node in nodes) or "none"
    dtype = _TYPES.get(nodes[0].type, "") if len(nodes) == 1 and nodes[0].shape else ""
    if not dtype or (kind == "output" and dtype != "float32"):
        wanted = "an FP32 or UINT8" if kind == "input" else "an FP32"
        raise ArtifactError(
            f"{artifact} must have one {kind}, {wanted} tensor with a batch axis, and has {found}"
        )
    batch, *dims = (axis if isinstance(axis, int) else -1 for axis in nodes[0].shape)
    return TensorSpec(nodes[0].name, tuple(dims), batch, dtype)


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if _CUDA not in onnxruntime.get_available_providers():
        raise ArtifactError(
            f"{device} was asked for, but this onnxruntime has no CUDA: install onnxruntime-gpu"
        )
    # From the packages nvidia-*, as PyTorch installs them; without them, from the system.
    onnxruntime.preload_dlls()
    cuda = {"device_id": device.removeprefix("cuda:")}
    return [(_CUDA, cuda), "CPUExecutionProvider"]
