"""The network as it is served: what the parity gate holds every artifact against."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from seresnext101_triton.client.contract import OutputKind, Preprocessing
from seresnext101_triton.export.network import Bottleneck, SEResNeXt


class ServedNetwork(nn.Module):
    """The network in eval mode, with a softmax behind it where probabilities are served.

    Attributes:
        dtype: What it computes in. Input, output and softmax are float64 where that is float64, and
            float32 otherwise.
    """

    dtype = torch.float32

    def __init__(self, network: SEResNeXt, output: OutputKind) -> None:
        super().__init__()
        self.network = network
        self.output = output
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, 3, H, W] to probabilities or logits [N, classes]."""
        wide = self.dtype in (torch.float32, torch.float64)
        logits = self.network(x) if wide else self.network(x.to(self.dtype)).float()
        return torch.softmax(logits, dim=1) if self.output is OutputKind.PROBABILITIES else logits

    def folded(self) -> ServedNetwork:
        """A copy with every BatchNorm folded into the convolution before it, in FP32.

        The graph is half as large, and the answers are the same.

        Exporters take this one; the gate holds what they make against the network as it was loaded,
        so the folding is proven too.
        """
        copy = deepcopy(self)
        _fold(copy.network, "conv1", "bn1")
        for block in copy.network.modules():
            if isinstance(block, Bottleneck):
                for number in (1, 2, 3):
                    _fold(block, f"conv{number}", f"bn{number}")
                if block.downsample is not None:
                    _fold(block.downsample, "0", "1")
        return copy

    def cast(self, dtype: torch.dtype, *, fp32_squeeze: bool = False) -> ServedNetwork:
        """A copy that computes in another dtype; the same network where it computes in it already.

        BatchNorm must have been folded: folding in a narrow dtype would lose accuracy.

        Args:
            dtype: For example `torch.float16`.
            fp32_squeeze: Keep each Squeeze-and-Excitation in FP32, for ranges that a narrow dtype
                cannot hold.
        """
        if dtype == self.dtype:
            return self
        copy = deepcopy(self)
        copy.dtype = dtype
        copy.network.to(dtype)
        if fp32_squeeze:
            for block in copy.network.modules():
                if isinstance(block, Bottleneck):
                    block.squeeze = _Fp32Squeeze(block.squeeze.float())  # type: ignore[assignment]
        return copy

    def in_half(self, *, fp32_squeeze: bool = False) -> ServedNetwork:
        """A copy that computes in FP16."""
        return self.cast(torch.float16, fp32_squeeze=fp32_squeeze)

    def in_float64(self) -> ServedNetwork:
        """A copy with the same weights that computes in float64: rounding is measured by it."""
        return self.cast(torch.float64)


class PixelNetwork(ServedNetwork):
    """A network that takes pixels, and normalises them in FP32 as the client does.

    Args:
        served: The network, in any precision; it is not copied.
        preprocessing: The mean and the standard deviation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, served: ServedNetwork, preprocessing: Preprocessing) -> None:
        super().__init__(served.network, served.output)
        self.dtype = served.dtype
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name), dtype=torch.float32)
            self.register_buffer(name, values.view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels, uint8 [N, H, W, 3], to probabilities or logits [N, classes]."""
        return super().forward((x.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std)


class _Fp32Squeeze(nn.Module):
    """A squeeze that computes in FP32 amid a network in a narrower dtype."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.float()).to(x.dtype)


def _fold(owner: nn.Module, convolution: str, norm: str) -> None:
    setattr(
        owner, convolution, fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm))
    )
    setattr(owner, norm, nn.Identity())
