"""The network: ResNeXt with Squeeze-and-Excitation, as NVIDIA trained it.

Written from the architecture of NVIDIA's `SE-ResNeXt101-32x4d` (DeepLearningExamples,
`image_classification/models/resnet.py`) with the names of its state dict, so that its checkpoints
load. Two things differ from the textbook: the excitation's hidden width is a constant 16 in every
block, not a sixteenth of the channels, and the stride sits in the 3x3 convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """The numbers that make one network of the family. The defaults are SE-ResNeXt101-32x4d.

    Attributes:
        depths: Blocks in each stage.
        widths: Channels of each stage's 3x3 convolutions.
        expansion: Channels a block puts out, as a multiple of its width.
        cardinality: Groups of each 3x3 convolution.
        stem_width: Channels of the first convolution.
        squeeze_width: Hidden channels of every Squeeze-and-Excitation.
        classes: Length of the output vector.
    """

    depths: tuple[int, ...] = (3, 4, 23, 3)
    widths: tuple[int, ...] = (128, 256, 512, 1024)
    expansion: int = 2
    cardinality: int = 32
    stem_width: int = 64
    squeeze_width: int = 16
    classes: int = 1000

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths):
            raise ValueError(f"{len(self.depths)} depths for {len(self.widths)} widths")
        if (
            min(
                *self.depths,
                *self.widths,
                self.expansion,
                self.cardinality,
                self.stem_width,
                self.squeeze_width,
                self.classes,
            )
            < 1
        ):
            raise ValueError(f"every number of an architecture is at least 1: {self}")
        if uneven := [width for width in self.widths if width % self.cardinality]:
            raise ValueError(f"widths {uneven} cannot be split into {self.cardinality} groups")


ARCHITECTURES = {
    "se-resnext101-32x4d": Architecture(),
    # Every kind of layer of the full network at a hundredth of its size, for tests and first tries.
    "se-resnext-tiny": Architecture(
        depths=(1, 1, 2, 1), widths=(32, 32, 64, 64), cardinality=8, stem_width=16
    ),
}


class SqueezeAndExcitation(nn.Module):
    """A gate in (0, 1) for each channel, from the channels' means (Hu et al., 2018).

    Pooling and 1x1 convolutions, not means and matrices: the weights are the same, and the exported
    graph is smaller and suits TensorRT.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels, H, W] to gates [N, channels, 1, 1]."""
        return torch.sigmoid(self.expand(torch.relu(self.squeeze(self.pool(x)))))


class Bottleneck(nn.Module):
    """1x1, grouped 3x3 with the stride, 1x1, gate, and the identity added."""

    def __init__(self, inputs: int, width: int, stride: int, architecture: Architecture) -> None:
        super().__init__()
        outputs = width * architecture.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(
            width, width, 3, stride, padding=1, groups=architecture.cardinality, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.squeeze = SqueezeAndExcitation(outputs, architecture.squeeze_width)
        self.downsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        identity = x if self.downsample is None else self.downsample(x)
        return torch.relu(out * self.squeeze(out) + identity)


class SEResNeXt(nn.Module):
    """The classifier. Eval mode is the caller's to set.

    Args:
        architecture: Its numbers.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.conv1 = nn.Conv2d(3, architecture.stem_width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(architecture.stem_width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages, inputs = [], architecture.stem_width
        for stage, (depth, width) in enumerate(
            zip(architecture.depths, architecture.widths, strict=True)
        ):
            blocks = []
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(Bottleneck(inputs, width, stride, architecture))
                outputs = width * architecture.expansion
                if block == 0:
                    projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
                    blocks[0].downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.layers = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, architecture.classes)

    def features(self, x: Tensor) -> Tensor:
        """Map float32 images [N, 3, H, W] to what the last layer sees, [N, channels]."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        return self.avgpool(self.layers(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 images [N, 3, H, W] to logits [N, classes]."""
        return self.fc(self.features(x))
