"""OpenVINO artifacts (`model.xml` with `model.bin` beside it), with the parameters of Triton's OpenVINO backend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from server.cores import usable_cores
from server.errors import ArtifactError
from server.runtimes.base import Runtime, TensorSpec, thread_count

_HINTS = ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT")


class OpenVino(Runtime):
    """Runs OpenVINO's IR on the CPU.

    Honours PERFORMANCE_HINT, NUM_STREAMS, INFERENCE_NUM_THREADS and HINT_BF16. Its CPU plugin has no COMPILATION_NUM_THREADS.

    Without HINT_BF16 it computes in FP32. NVIDIA's backend has no such switch: on a processor with bfloat16 units it leaves OpenVINO at
    its default there, which is bfloat16.
    """

    def __init__(self, artifact: Path, parameters: Mapping[str, str], device: str) -> None:
        if device != "cpu":
            raise ArtifactError(f"{artifact} is served on CPUs only, and not on {device}")
        try:
            compiled = openvino.Core().compile_model(str(artifact), "CPU", _properties(parameters))
        except RuntimeError as error:
            raise ArtifactError(f"{artifact} cannot be loaded by OpenVINO: {_reason(error)}") from None
        self.precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self.input, self.output = (
            TensorSpec(port.any_name, tuple(axis.get_length() if axis.is_static else -1 for axis in port.partial_shape)[1:])
            for port in (compiled.input(0), compiled.output(0))
        )

    def kernels(self, layer: str) -> dict[str, int]:
        """How many layers of a kind (`Convolution`) OpenVINO's execution graph runs in which type, `int8` among them."""
        operations = [operation.rt_info for operation in self._compiled.get_runtime_model().get_ops()]
        names = [str(info["primitiveType"].astype(str)) for info in operations if info["layerType"].astype(str) == layer]
        return dict(Counter("int8" if name.lower().endswith("i8") else name.rsplit("_", 1)[-1].lower() for name in names))

    def run(self, batch: np.ndarray) -> np.ndarray:
        # The request's own output is written to again by the next run.
        images = np.require(batch, np.float32, requirements=["C", "W"])
        return self._request.infer([images], share_inputs=True)[0].copy()


def _properties(parameters: Mapping[str, str]) -> dict[str, Any]:
    """The backend's parameters as OpenVINO's properties.

    Raises:
        ArtifactError: A value is not one that the backend takes.
    """
    # Each instance is a process of its own, and all would bind themselves to the same cores.
    properties: dict[str, Any] = {"ENABLE_CPU_PINNING": False}
    properties |= {"INFERENCE_PRECISION_HINT": "bf16" if parameters.get("HINT_BF16") == "YES" else "f32"}
    if hint := parameters.get("PERFORMANCE_HINT"):
        if hint not in _HINTS:
            raise ArtifactError(f"parameter PERFORMANCE_HINT must be one of {', '.join(_HINTS)}, not {hint!r}")
        properties["PERFORMANCE_HINT"] = hint
    streams = parameters.get("NUM_STREAMS", "")
    if streams in ("AUTO", "NUMA"):
        properties["NUM_STREAMS"] = streams
    elif count := thread_count(parameters, "NUM_STREAMS"):
        properties["NUM_STREAMS"] = str(count)
    properties["INFERENCE_NUM_THREADS"] = thread_count(parameters, "INFERENCE_NUM_THREADS") or usable_cores()
    return properties


def _reason(error: RuntimeError) -> str:
    """What OpenVINO says behind the places in its source that it was thrown from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith("Exception from")), "it does not say why")
