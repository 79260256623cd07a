"""OpenVINO's intermediate representation, for Triton's OpenVINO backend on CPUs."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from seresnext101_triton.export.format import INPUT, Format, Proof
from seresnext101_triton.export.precision import BF16, FP32, INT8, Precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from tritonclient.grpc import model_config_pb2 as pb

    from seresnext101_triton.export.gate import Gate
    from seresnext101_triton.export.material import Material
    from seresnext101_triton.export.reporting import Reporter
    from seresnext101_triton.export.serving import Serving
    from seresnext101_triton.export.speed import Speed
    from seresnext101_triton.server.runtimes.openvino import OpenVino as Runtime

_BF16_HINT = "HINT_BF16"
# With Triton's batcher, NVIDIA's backend takes only the largest batch, and pads others to it.
_PADDING = "ENABLE_BATCH_PADDING"


class OpenVino(Format):
    """A graph and its weights, made from the same ONNX as every other format."""

    name = "openvino"
    summary = "for CPUs"
    runtime = "openvino"
    platform = "openvino"
    platform_field = "backend"
    filename = "model.xml"
    thread_parameter = "INFERENCE_NUM_THREADS"
    packages = ("torch", "onnxscript", "onnx", "openvino")
    precisions = (FP32, BF16, INT8)
    cpu_precisions = precisions
    devices = ("cpu",)
    batched = False
    from_onnx = True

    def export(self, material: Material, folder: Path, reporter: Reporter) -> None:
        """Write `model.xml`, and `model.bin` with the weights in FP32: OpenVINO would halve them.

        The batch axis is `1..`: of at least one image, so that OpenVINO refuses an empty batch
        before a layer sees it; with `?`, the layers' error stays until a batch of another size
        comes. It has no upper bound: NVIDIA's backend would not take it for an axis of any length.
        """
        from seresnext101_triton.server.runtimes.openvino_package import core, openvino

        # `openvino.convert_model` does the same, and reports its use to its makers.
        model = core().read_model(str(material.graph))
        _, *dims = model.input(INPUT).partial_shape
        model.reshape({INPUT: openvino.PartialShape([openvino.Dimension(1, -1), *dims])})
        openvino.save_model(model, str(folder / self.filename), compress_to_fp16=False)

    def parameters(self, precision: Precision, threads: int) -> dict[str, str]:
        """Besides threads: that one run may have all of them, and the precision.

        What INT8 leaves in floating point runs in bfloat16 where the processor has it, as NVIDIA's
        backend would run it anyway.
        """
        narrow = precision.quantized or precision.computes_in == BF16.computes_in
        hint = {_BF16_HINT: "YES"} if narrow else {}
        return super().parameters(precision, threads) | {"PERFORMANCE_HINT": "LATENCY", **hint}

    def configure(self, config: pb.ModelConfig, artifacts: Sequence[str]) -> None:
        """With Triton's batcher, have NVIDIA's backend take batches that are not full."""
        if config.max_batch_size:
            config.parameters[_PADDING].string_value = "YES"

    def prove(
        self, gate: Gate, folder: Path, precision: Precision, serving: Serving, reporter: Reporter
    ) -> Proof:
        """Also find out what OpenVINO really computed in, and how fast bfloat16 is here."""
        from seresnext101_triton.export import speed

        label, artifact = self.label(precision), folder / self.filename
        with reporter.step(f"checking {label} against the network"):
            runtime = self.load(artifact, precision, serving.threads)
            parity = gate.check(label, runtime, precision).to_json()
        parity["ran_in"] = runtime.ran_in
        if precision.quantized and (warning := speed.int8_line(parity)):
            reporter.note(warning, style="bold yellow")
        if precision.computes_in != BF16.computes_in:
            return Proof(parity)
        with reporter.step("measuring bfloat16 against FP32"):
            image = gate.inputs_for(runtime)[:1]
            found = self._speed(artifact, precision, serving.threads, image)
        pays = found.ratio is not None and found.ratio >= 1
        reporter.note(found.line, style=None if pays else "bold yellow")
        return Proof(parity, asdict(found))

    def load(self, artifact: Path, precision: Precision, threads: int = 0) -> Runtime:
        """An artifact, or an ONNX, in the runtime that serves it.

        Raises:
            ArtifactError: OpenVINO cannot load it.
        """
        from seresnext101_triton.server.runtimes.openvino import OpenVino as Runtime

        return Runtime(artifact, self.parameters(precision, threads), "cpu")

    def _speed(
        self, artifact: Path, precision: Precision, threads: int, image: np.ndarray
    ) -> Speed:
        """Run one artifact in bfloat16 and in FP32 by turns."""
        from seresnext101_triton.export import speed

        narrow = self.load(artifact, precision, threads)
        found = speed.Speed(narrow.ran_in, None, 0, len(image), speed.processor())
        if found.ran_in != BF16.name:
            return found
        wide = self.load(artifact, FP32, threads)
        return replace(found, ratio=speed.compare(wide, narrow, image), pairs=speed.PAIRS)
