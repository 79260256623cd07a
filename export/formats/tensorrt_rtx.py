"""Engines of TensorRT for RTX: built on any machine, for NVIDIA's RTX GPUs."""

from __future__ import annotations

import json
import re
from argparse import Namespace, _ActionsContainer
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seresnext101_triton.export.errors import OptionError
from seresnext101_triton.export.format import Format, Proof
from seresnext101_triton.export.precision import FP16, FP32, Precision
from seresnext101_triton.export.tensorrt import rtx
from seresnext101_triton.export.tensorrt.plan import sidecar
from seresnext101_triton.server import gpu as gpus
from seresnext101_triton.server.digest import sha256

if TYPE_CHECKING:
    from seresnext101_triton.export.gate import Gate
    from seresnext101_triton.export.material import Material
    from seresnext101_triton.export.reporting import Reporter
    from seresnext101_triton.export.serving import Serving

DEFAULT_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
_ALONE = "7.5"
_CAPABILITY = re.compile(r"\d{1,2}\.\d")


@dataclass(frozen=True)
class TensorRTRtx(Format):
    """One engine for several kinds of GPU, compiled for the GPU at hand when it is loaded.

    Attributes:
        capabilities: The compute capabilities that it is built for.
        unproven: Publish it although it was not run.
    """

    capabilities: tuple[str, ...] = DEFAULT_CAPABILITIES
    unproven: bool = False

    name = "tensorrt_rtx"
    summary = "for RTX GPUs, built on any machine"
    runtime = "tensorrt_rtx"
    platform = "tensorrt_rtx"
    platform_field = "backend"
    filename = "model.engine"
    packages = ("torch", "onnxscript", "onnx", rtx.PACKAGE)
    sources = ("seresnext101_triton.export.tensorrt",)
    precisions = (FP32, FP16)
    default_precision = FP16
    cpu_precisions = ()
    devices = ("gpu",)
    from_onnx = True

    def __post_init__(self) -> None:
        for each in self.capabilities:
            if not _CAPABILITY.fullmatch(each):
                raise OptionError(f"`compute_capability` is like 8.9, not {each!r}")
        if _ALONE in self.capabilities and len(set(self.capabilities)) > 1:
            raise OptionError(f"`compute_capability` {_ALONE} must be named alone")

    def add_arguments(self, parser: _ActionsContainer) -> None:
        """Add the GPUs that an engine is for, and the leave to publish one that was not run."""
        group = parser.add_argument_group("TensorRT for RTX engines")
        group.add_argument(
            "--compute-capability",
            action="append",
            default=[],
            metavar="X.Y",
            help=f"a kind of GPU that it is for (default: {', '.join(DEFAULT_CAPABILITIES)})",
        )
        group.add_argument(
            "--unproven",
            action="store_true",
            help="publish an engine that this machine cannot run, and mark it",
        )

    def with_arguments(self, arguments: Namespace) -> TensorRTRtx:
        named = tuple(dict.fromkeys(arguments.compute_capability))
        return TensorRTRtx(named or DEFAULT_CAPABILITIES, arguments.unproven)

    def is_for_tensorrt(self, precision: Precision) -> bool:
        return True

    def missing(self) -> str | None:
        """The builder, or the GPU to prove the engine on, unless that is given up."""
        lacks = [] if rtx.is_installed() else [f"{rtx.PRODUCT} (pip install '.[rtx]')"]
        if not self.unproven and not self._runs_here():
            kinds = " or ".join(self.capabilities)
            lacks.append(
                f"a GPU of compute capability {kinds} to run the engine on; `unproven` publishes "
                "it without a run"
            )
        return " and ".join(lacks) or None

    def identity(self) -> dict[str, Any]:
        """The GPUs that it is for, and whether it must be run."""
        return asdict(self)

    def export(self, material: Material, folder: Path, reporter: Reporter) -> None:
        """Build the engine, and describe it in a JSON file beside it.

        Raises:
            BuildError: The ONNX is not fit for TensorRT, or NVIDIA's builder refuses it.
        """
        from seresnext101_triton.export.onnx import gate

        gate.check_onnx(material.graph, material.precision, material.release)
        profile = rtx.profile_of(material)
        with reporter.phases() as watcher:
            engine = rtx.build(material.graph, profile, self.capabilities, watcher)
        path = folder / self.filename
        path.write_bytes(engine)
        facts = {
            "tensorrt_rtx": material.tensorrt_rtx,
            "compute_capabilities": self.capabilities,
            "flags": ["STRONGLY_TYPED"],
            "profile": asdict(profile),
            "onnx_sha256": sha256(material.graph),
            "engine_sha256": sha256(path),
        }
        sidecar(path).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    def prove(
        self, gate: Gate, folder: Path, precision: Precision, serving: Serving, reporter: Reporter
    ) -> Proof:
        """Run the engine where this machine can, and otherwise record that nobody has."""
        if self._runs_here():
            return super().prove(gate, folder, precision, serving, reporter)
        reporter.note(
            f"{self.label(precision)} was built and NOT RUN: this machine has no GPU for it",
            style="bold yellow",
        )
        return Proof({"unproven": True})

    def _runs_here(self) -> bool:
        gpu = gpus.find()
        return gpu is not None and gpu.compute_capability in self.capabilities
