"""What every format says of itself: how its artifacts are made, proven, identified and served.

The table of all formats is `seresnext101_triton.export.formats.FORMATS`.
"""

from __future__ import annotations

from argparse import Namespace, _ActionsContainer
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seresnext101_triton.export.errors import OptionError
from seresnext101_triton.export.precision import FP32, Precision

if TYPE_CHECKING:
    from tritonclient.grpc import model_config_pb2 as pb

    from seresnext101_triton.export.gate import Gate
    from seresnext101_triton.export.material import Material
    from seresnext101_triton.export.reporting import Reporter
    from seresnext101_triton.export.serving import Serving

# LibTorch demands names of this pattern. Every format has them, so that one client serves all.
INPUT = "INPUT__0"
OUTPUT = "OUTPUT__0"


@dataclass(frozen=True)
class Proof:
    """What was measured of an artifact before it is published.

    Attributes:
        parity: The figures of the parity gate.
        speed: How fast the artifact is here, where that decides whether it is worth publishing.
    """

    parity: dict[str, Any]
    speed: dict[str, Any] | None = None


class Format:
    """One kind of artifact.

    Importing a format's module is cheap: its methods import what they need.

    Attributes:
        name: What the option `formats` calls it.
        summary: What it is, in a few words, for the help text.
        runtime: A key of `seresnext101_triton.server.runtimes.RUNTIMES`. This runtime runs the
            artifact in the parity gate and in this project's own backends.
        platform: Triton's name for it in config.pbtxt.
        platform_field: The field of config.pbtxt that holds this name, `platform` or `backend`.
        filename: Triton's default file name for the artifact.
        thread_parameter: The backend's parameter for the number of CPU threads of one run, of which
            0 leaves the choice open. Empty where there is none.
        packages: The distributions whose versions decide what the artifact looks like.
        sources: The modules of this project, besides the format's own, that decide the same.
        precisions: What it can compute in.
        default_precision: What it computes in where nothing else was asked for.
        cpu_precisions: Those that are worth serving on a CPU; `perf cpu` measures them.
        is_quick: Whether it is made in seconds. `perf advise` makes those that are by itself.
        devices: Where Triton can serve it: `cpu`, `gpu` or both.
        batched: Whether Triton's batcher makes its batches even if nobody asks for it. With the
            batcher, NVIDIA's OpenVINO backend computes the largest batch every time, so there each
            request is a run of its own, with as many images as it brings.
        from_onnx: Whether the artifact is made from the network's ONNX.
    """

    name: str
    summary: str
    runtime: str
    platform: str
    platform_field: str = "platform"
    filename: str
    thread_parameter: str = ""
    packages: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    precisions: tuple[Precision, ...] = (FP32,)
    default_precision: Precision = FP32
    cpu_precisions: tuple[Precision, ...] = (FP32,)
    is_quick: bool = True
    devices: tuple[str, ...] = ("cpu", "gpu")
    batched: bool = True
    from_onnx: bool = False

    def export(self, material: Material, folder: Path, reporter: Reporter) -> None:
        """Write the artifact into an empty folder.

        Args:
            material: What it is made from.
            folder: Where it goes, on the repository's file system.
            reporter: What is told of a long work's progress.

        Raises:
            ExportError: It cannot be made; the message says why.
        """
        raise NotImplementedError

    def add_arguments(self, parser: _ActionsContainer) -> None:
        """Add the options of the command line that only this format has."""

    def with_arguments(self, arguments: Namespace) -> Format:
        """This format with the options that `add_arguments` has added.

        Raises:
            OptionError: One is out of range.
        """
        return self

    def missing(self) -> str | None:
        """What this machine lacks to make and prove the artifact; None where it lacks nothing."""
        return None

    def identity(self) -> dict[str, Any]:
        """The options and facts of this machine that decide what the artifact looks like."""
        return {}

    def check(self, precision: Precision, serving: Serving) -> None:
        """Refuse what this format cannot be exported as or served with.

        Raises:
            OptionError: It cannot; the message says what can.
        """
        if precision.name not in {known.name for known in self.precisions}:
            choices = ", ".join(known.name for known in self.precisions)
            raise OptionError(
                f"{self.name} is not exported in {precision.name}: choose from {choices}"
            )
        if "gpu" not in self.devices and serving.device != "cpu":
            raise OptionError(
                f"{self.name} is served on CPUs only: leave `device=gpu` out, or the format"
            )
        if serving.has_queue and not self.batches(serving):
            raise OptionError(
                f"{self.name} is served without Triton's batcher: it has no queue to bound or to "
                "delay, unless you give `batcher`"
            )

    def batches(self, serving: Serving) -> bool:
        """Whether Triton's batcher makes the batches of a model that is served like this."""
        return self.batched or serving.batcher

    def is_for_tensorrt(self, precision: Precision) -> bool:
        """Whether the ONNX that it is made from will be read by TensorRT."""
        return False

    def device(self, serving: Serving) -> str:
        """Where the model is served, `cpu` or `gpu`."""
        return serving.device if "cpu" in self.devices else "gpu"

    def label(self, precision: Precision) -> str:
        """The format and the precision in one name: `onnx`, `onnx_fp16`."""
        return f"{self.name}{precision.suffix}"

    def parameters(self, precision: Precision, threads: int) -> dict[str, str]:
        """What the backend is told on a CPU, in the gate as when it serves.

        Args:
            precision: What the artifact computes in.
            threads: CPU threads of one run; 0 leaves the choice open.
        """
        return {self.thread_parameter: str(threads)} if self.thread_parameter else {}

    def prove(
        self, gate: Gate, folder: Path, precision: Precision, serving: Serving, reporter: Reporter
    ) -> Proof:
        """Run the artifact as it will be served and hold its answers against the network's own.

        It runs on a GPU where it will be served on one and this machine has one.

        Raises:
            ParityError: It must not be published.
            ArtifactError: Its runtime cannot load it.
        """
        import torch

        from seresnext101_triton.server import runtimes

        on_gpu = self.device(serving) == "gpu" and torch.cuda.is_available()
        device = "cuda:0" if on_gpu else "cpu"
        label = self.label(precision)
        with reporter.step(f"checking {label} against the network"):
            parameters = self.parameters(precision, serving.threads)
            runtime = runtimes.load(self.runtime, folder / self.filename, parameters, device)
            return Proof(gate.check(label, runtime, precision, device).to_json())

    def configure(self, config: pb.ModelConfig, artifacts: Sequence[str]) -> None:
        """Add to a config.pbtxt what follows from the names of the artifact's files."""

    def tune_gpu(self, config: pb.ModelConfig) -> None:
        """Add the backend's GPU options to a config.pbtxt that is complete but for them."""
