"""What the artifacts of one precision are made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seresnext101_triton.export.precision import Precision
from seresnext101_triton.export.served import ServedNetwork
from seresnext101_triton.server.releases import Release


@dataclass(frozen=True)
class Material:
    """The network in one precision, and what was found out about it on the way.

    Attributes:
        network: In eval mode, on the CPU, with BatchNorm folded. Exporters may change its memory
            layout.
        precision: What the artifacts will compute in.
        crop: Side of its images in pixels.
        max_batch: The one maximum batch.
        release: The release of tritonserver that will serve the artifacts.
        onnx: The network as ONNX; None where no format needs it.
        ranges: If the network was cast, how large its values become, as
            `seresnext101_triton.export.ranges.measure` returns it.
        quantization: Where the ONNX was quantised, how:
            `seresnext101_triton.export.quantization.recipe.Quantized.facts`.
        tensorrt_rtx: The version of NVIDIA's builder that has built an engine from the ONNX; None
            where none has.
        takes_pixels: Whether the network and the ONNX take pixels and normalise them.
    """

    network: ServedNetwork
    precision: Precision
    crop: int
    max_batch: int
    release: Release
    onnx: Path | None = None
    ranges: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    tensorrt_rtx: str | None = None
    takes_pixels: bool = False

    @property
    def example(self) -> Tensor:
        """An input to trace the network with.

        It is float32 [2, 3, crop, crop], or uint8 [2, crop, crop, 3] if the network takes pixels.
        With a batch of 1, PyTorch's ONNX exporter would take the batch axis for a fixed one.
        """
        if self.takes_pixels:
            return torch.zeros(2, self.crop, self.crop, 3, dtype=torch.uint8)
        return torch.zeros(2, 3, self.crop, self.crop)

    @property
    def graph(self) -> Path:
        """The ONNX, for a format that is made from it."""
        assert self.onnx is not None
        return self.onnx
