"""The network as it is served: what the parity gate holds every artifact against."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from client.decoding import OutputKind
from export.network import Bottleneck, SEResNeXt


class ServedNetwork(nn.Module):
    """The network in eval mode, with a softmax behind it where probabilities are served.

    Attributes:
        precision: What it computes in, `fp32` or `fp16`. Input, output and softmax are FP32 in both.
    """

    precision = "fp32"

    def __init__(self, network: SEResNeXt, output: OutputKind) -> None:
        super().__init__()
        self.network = network
        self.output = output
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 images [N, 3, H, W] to probabilities or logits [N, classes]."""
        logits = self.network(x) if self.precision == "fp32" else self.network(x.half()).float()
        return torch.softmax(logits, dim=1) if self.output is OutputKind.PROBABILITIES else logits

    def folded(self) -> ServedNetwork:
        """A copy with every BatchNorm folded into the convolution before it, in FP32: half the graph, and the same answers.

        Exporters take this one; the gate holds what they make against the network as it was loaded, so the folding is proven too.
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

    def in_half(self, *, fp32_squeeze: bool = False) -> ServedNetwork:
        """A copy that computes in FP16. BatchNorm must have been folded: folding in FP16 would lose accuracy.

        Args:
            fp32_squeeze: Keep each Squeeze-and-Excitation an island of FP32, for ranges that FP16 cannot hold.
        """
        copy = deepcopy(self)
        copy.precision = "fp16"
        copy.network.half()
        if fp32_squeeze:
            for block in copy.network.modules():
                if isinstance(block, Bottleneck):
                    block.squeeze = _Island(block.squeeze.float())  # type: ignore[assignment]
        return copy


class _Island(nn.Module):
    """A module that computes in FP32 amid FP16."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.float()).half()


def _fold(owner: nn.Module, convolution: str, norm: str) -> None:
    setattr(owner, convolution, fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm)))
    setattr(owner, norm, nn.Identity())
