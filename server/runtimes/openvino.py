"""Runs OpenVINO artifacts (`model.xml` and `model.bin`) with the parameters of Triton's backend."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seresnext101_triton.server.cores import MOST_THREADS, usable_cores
from seresnext101_triton.server.errors import ArtifactError
from seresnext101_triton.server.runtimes import bfloat16, int8
from seresnext101_triton.server.runtimes.base import Runtime, TensorSpec
from seresnext101_triton.server.runtimes.openvino_package import UNPINNED, core, openvino

# With this property, an INT8 graph is computed in floating point. The sums are then exact, and the
# graph is not faster than in FP32.
_WITHOUT_INT8 = {"LP_TRANSFORMS_MODE": "NO"}
_HINTS = ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT")


class OpenVino(Runtime):
    """Runs OpenVINO's IR on the CPU.

    It uses the parameters PERFORMANCE_HINT, NUM_STREAMS, INFERENCE_NUM_THREADS, HINT_BF16 and
    CPU_EXTENSION_PATH.

    Without HINT_BF16, this class computes in FP32. NVIDIA's backend cannot be told to do so: on a
    processor with bfloat16 units, it computes in bfloat16. If the integer kernels saturate, this
    class computes an INT8 model in floating point. NVIDIA's backend uses the integer kernels
    nevertheless. With HINT_BF16, OpenVINO computes in FP32 if the processor has no bfloat16 units,
    or if ONEDNN_MAX_CPU_ISA forbids their use.

    Attributes:
        precision: The precision that OpenVINO was asked for, `f32` or `bf16`.
    """

    def __init__(
        self,
        artifact: Path,
        parameters: Mapping[str, str],
        device: str,
        *,
        has_clocks: bool = False,
    ) -> None:
        if device != "cpu":
            raise ArtifactError(f"{artifact} is served on CPUs only, and not on {device}")
        properties = _properties(parameters) | {"PERF_COUNT": has_clocks}
        try:
            runner = core(parameters.get("CPU_EXTENSION_PATH", ""))
            compiled = runner.compile_model(str(artifact), "CPU", properties)
            if "int8" in _kernels(compiled) and not int8.adds_exactly():
                model = _with_weights_in_floating_point(runner.read_model(str(artifact)))
                compiled = runner.compile_model(model, "CPU", properties | _WITHOUT_INT8)
        except Exception as error:  # noqa: BLE001  (a RuntimeError, or the binding's own error)
            why = _reason(error)
            raise ArtifactError(f"{artifact} cannot be loaded by OpenVINO: {why}") from None
        self.precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.input = _only(artifact, "input", compiled.inputs)
        self.output = _only(artifact, "output", compiled.outputs)
        self._compiled = compiled
        self._request = compiled.create_infer_request()

    @property
    def ran_in(self) -> str:
        """The type in which the convolutions are computed: `int8`, `bf16` or `fp32`."""
        return next((kind for kind in ("int8", "bf16") if kind in _kernels(self._compiled)), "fp32")

    def kernels(self, layer: str) -> dict[str, int]:
        """How many layers of a kind, for example `Convolution`, are computed in each type."""
        return _kernels(self._compiled, layer)

    @property
    def threads(self) -> int:
        """How many threads compute one batch."""
        return int(self._compiled.get_property("INFERENCE_NUM_THREADS"))

    def layers(self) -> list[tuple[str, str, str, float]]:
        """The layers as OpenVINO runs them.

        Returns:
            For each its type, the names of the artifact's layers in it with commas between, the
            name of its kernel, and its mean time in ms, which is 0 without clocks.
        """
        found = []
        for layer, info in _layers(self._compiled):
            clock = info["execTimeMcs"].astype(str)
            ms = int(clock) / 1000 if clock.isdigit() else 0.0
            names, kernel = (
                info[key].astype(str) for key in ("originalLayersNames", "primitiveType")
            )
            found.append((layer, names, kernel, ms))
        return found

    def run(self, batch: np.ndarray) -> np.ndarray:
        # The output is copied, because the next run overwrites it.
        images = np.require(batch, self.input.dtype, requirements=["C", "W"])
        return self._request.infer([images], share_inputs=True)[0].copy()


def _layers(compiled: Any) -> Iterator[tuple[str, Any]]:
    """The type of each layer that OpenVINO runs, and all that it tells of it."""
    for operation in compiled.get_runtime_model().get_ops():
        yield operation.rt_info["layerType"].astype(str), operation.rt_info


def _kernels(compiled: Any, layer: str = "Convolution") -> dict[str, int]:
    names = [
        str(info["primitiveType"].astype(str)).lower()
        for kind, info in _layers(compiled)
        if kind == layer
    ]
    return dict(
        Counter("int8" if name.endswith("i8") else name.rsplit("_", 1)[-1] for name in names)
    )


def _only(artifact: Path, kind: str, ports: Sequence[Any]) -> TensorSpec:
    """The only input or output of a model.

    Raises:
        ArtifactError: There is not exactly one, or it is not a tensor with a batch axis, or an axis
            has an upper bound. NVIDIA's backend refuses such a bound (doesMatch in
            src/openvino_utils.cc of openvino_backend). An output must be FP32, an input FP32 or
            UINT8.
    """
    described = (
        f"{port.any_name} {port.element_type.to_string()} {port.partial_shape}" for port in ports
    )
    found = ", ".join(described) or "none"
    allowed = {"f32": "float32", "u8": "uint8"} if kind == "input" else {"f32": "float32"}
    dtype = allowed.get(ports[0].element_type.to_string()) if len(ports) == 1 else None
    # OpenVINO compiles no tensor with a dynamic rank for CPUs.
    shape = ports[0].partial_shape if dtype else ()
    if not len(shape) or not dtype:
        wanted = "an FP32 or UINT8" if kind == "input" else "an FP32"
        raise ArtifactError(
            f"{artifact} must have one {kind}, {wanted} tensor with a batch axis, and has {found}"
        )
    if bounded := [str(axis) for axis in shape if axis.is_dynamic and axis.get_max_length() >= 0]:
        raise ArtifactError(
            f"{artifact} has the {kind} {found}: the axis {bounded[0]} must have one length, or "
            "any length from 1 on (1..)"
        )
    batch, *dims = (axis.get_length() if axis.is_static else -1 for axis in shape)
    return TensorSpec(ports[0].any_name, tuple(dims), batch, dtype)


def _with_weights_in_floating_point(model: openvino.Model) -> openvino.Model:
    """The same model with FP32 constants instead of INT8 constants, conversions and scales.

    OpenVINO keeps such a fully connected layer compressed, for which it has no kernel if
    ONEDNN_MAX_CPU_ISA forbids the instructions that the processor has (OpenVINO 2026.4).
    """
    passes = openvino.passes.Manager()
    passes.register_pass(openvino.passes.ConstantFolding())
    passes.run_passes(model)
    return model


def _properties(parameters: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of Triton's backend as properties of OpenVINO.

    Values may be in upper or lower case. An empty value is the same as no parameter.

    Source: triton-inference-server/openvino_backend, src/openvino.cc, ParseParameterHelper.

    Raises:
        ArtifactError: NVIDIA's backend does not accept a value.
    """
    properties: dict[str, Any] = dict(UNPINNED)
    if parameters.get("HINT_BF16", "").upper() not in ("", "YES"):
        raise ArtifactError(
            f"parameter HINT_BF16 must be YES, not {parameters['HINT_BF16']!r}: leave it out for "
            "FP32"
        )
    half = parameters.get("HINT_BF16") and bfloat16.can_be_asked_for()
    properties["INFERENCE_PRECISION_HINT"] = "bf16" if half else "f32"
    if parameters.get("COMPILATION_NUM_THREADS"):
        raise ArtifactError(
            "parameter COMPILATION_NUM_THREADS is not one of OpenVINO's CPU plugin: leave it out"
        )
    if hint := parameters.get("PERFORMANCE_HINT", "").upper():
        if hint not in _HINTS:
            raise ArtifactError(
                f"parameter PERFORMANCE_HINT must be one of {', '.join(_HINTS)}, not "
                f"{parameters['PERFORMANCE_HINT']!r}"
            )
        properties["PERFORMANCE_HINT"] = hint
    streams = parameters.get("NUM_STREAMS", "").upper()
    if streams in ("AUTO", "NUMA"):
        properties["NUM_STREAMS"] = streams
    elif count := _number(parameters, "NUM_STREAMS", ", AUTO or NUMA"):
        properties["NUM_STREAMS"] = str(count)
    threads = _number(parameters, "INFERENCE_NUM_THREADS")
    properties["INFERENCE_NUM_THREADS"] = threads or usable_cores()
    return properties


def _number(parameters: Mapping[str, str], name: str, others: str = "") -> int:
    """The value of a parameter as a number. NVIDIA's backend accepts digits and no sign.

    Raises:
        ArtifactError: The value is not such a number, or it is over `MOST_THREADS`.
    """
    text = parameters.get(name) or "0"
    is_short_number = re.fullmatch("[0-9]+", text) and len(text) <= len(str(MOST_THREADS))
    if not is_short_number or int(text) > MOST_THREADS:
        raise ArtifactError(
            f"parameter {name} must be a whole number of 0 to {MOST_THREADS}{others}, not {text!r}"
        )
    return int(text)


def _reason(error: Exception) -> str:
    """The last line of OpenVINO's error that does not name a place in its source code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    texts = (line for line in reversed(lines) if not line.startswith("Exception from"))
    return next(texts, "it does not say why")
