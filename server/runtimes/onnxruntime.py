"""ONNX artifacts (`model.onnx`), with the parameters of Triton's ONNX Runtime backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from server.cores import usable_cores
from server.errors import ArtifactError
from server.runtimes.base import Runtime, TensorSpec, flag, thread_count


class OnnxRuntime(Runtime):
    """Runs an ONNX graph.

    Honours intra_op_thread_count, inter_op_thread_count, execution_mode, enable_mem_arena and enable_mem_pattern.
    """

    def __init__(self, artifact: Path, parameters: Mapping[str, str], device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = thread_count(parameters, "intra_op_thread_count") or usable_cores()
        options.inter_op_num_threads = thread_count(parameters, "inter_op_thread_count")
        if flag(parameters, "execution_mode", default=False):
            options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        options.enable_cpu_mem_arena = flag(parameters, "enable_mem_arena", default=True)
        options.enable_mem_pattern = flag(parameters, "enable_mem_pattern", default=True)
        try:
            self._session = onnxruntime.InferenceSession(str(artifact), options, providers=_providers(device))
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise ArtifactError(f"{artifact} cannot be loaded by ONNX Runtime: {str(error).splitlines()[0]}") from None
        self.input, self.output = (
            TensorSpec(node.name, tuple(axis if isinstance(axis, int) else -1 for axis in node.shape[1:]))
            for node in (self._session.get_inputs()[0], self._session.get_outputs()[0])
        )

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self._session.run([self.output.name], {self.input.name: batch})[0]


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise ArtifactError(f"{device} was asked for, but this onnxruntime has no CUDA: install onnxruntime-gpu")
    return [("CUDAExecutionProvider", {"device_id": device.removeprefix("cuda:")}), "CPUExecutionProvider"]
