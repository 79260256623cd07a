"""What exporters make artifacts from: the network in one precision, and what they share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from export.formats.served import ServedNetwork
from export.reporting import Reporter
from export.tensorrt.plan import PlanRequest
from server.releases import Release


@dataclass
class Material:
    """One precision's share of an export.

    Args:
        quantized: The ONNX, where it has been made from another precision's already.

    Attributes:
        network: In eval mode, on the CPU, BatchNorm folded; exporters may change its memory layout.
        example: float32 [2, 3, H, W].
        max_batch: The one maximum batch.
        release: The release of tritonserver that will serve the artifacts.
        plans: What TensorRT is asked for.
        scratch: A folder on the repository's file system that does not outlive the export.
    """

    network: ServedNetwork
    example: Tensor
    max_batch: int
    release: Release
    plans: PlanRequest
    scratch: Path
    reporter: Reporter
    quantized: Path | None = None

    @cached_property
    def onnx(self) -> Path:
        """The network as ONNX, made once however many formats it goes into.

        Raises:
            BuildError: The release that will serve it cannot read it.
        """
        from export.formats import onnx
        from export.tensorrt import gate

        if self.quantized:
            return self.quantized
        path = self.scratch / f"{self.network.precision}.onnx"
        onnx.write(self.network, self.example, self.max_batch, path)
        gate.check_readable(path, self.release)
        return path
