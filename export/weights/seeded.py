"""Untrained weights that behave: the same for the same seed, and well conditioned.

A plainly random network of this depth is numerically chaotic, its logits run into the thousands and
a comparison of two runtimes on it says nothing. Here every block's last BatchNorm scales by a small
factor, so that no block drowns the identity it is added to; BatchNorm statistics are those of real
photographs; and the last layer is scaled so that logits are of the size of a trained network's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.images import load_image, sample_photographs
from seresnext101_triton.export.fingerprint import source_digest
from seresnext101_triton.export.network import Architecture, SEResNeXt
from seresnext101_triton.export.weights.checkpoint import sha256_of_tensors
from seresnext101_triton.export.weights.provenance import Provenance

if TYPE_CHECKING:
    from seresnext101_triton.export.reporting import Reporter

_LAST_SCALE = 0.2
# Spread of what a plain initialisation leaves at 1 or 0. With those values, nobody would notice a
# converter that forgets them.
_SPREAD = 0.2
_LOGIT_SPREAD = 2.0
_CALIBRATION_SIZE = 224


@dataclass(frozen=True)
class SeededSource:
    """Weights made from a seed."""

    seed: int

    def identity(self, reporter: Reporter) -> str:
        code = source_digest("seresnext101_triton.export.network", __name__)
        return f"seeded:{self.seed}:{code}"

    def load(self, architecture: Architecture, reporter: Reporter) -> tuple[SEResNeXt, Provenance]:
        with reporter.step(f"making untrained weights from seed {self.seed}"):
            network = seeded_network(architecture, self.seed)
            sha256 = sha256_of_tensors(network.state_dict())
        return network, Provenance("seeded", f"seed {self.seed}", sha256, trained=False)


def seeded_network(architecture: Architecture, seed: int) -> SEResNeXt:
    """A well conditioned network in eval mode, in which every layer changes the result."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        network = SEResNeXt(architecture)
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=_SPREAD, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            nn.init.normal_(module.weight, 1.0, _SPREAD, generator=generator)
            nn.init.normal_(module.bias, std=_SPREAD, generator=generator)
    for name, parameter in network.named_parameters():
        if name.endswith("bn3.weight"):
            parameter.data.mul_(_LAST_SCALE)
    with torch.no_grad():
        photographs = _calibration_batch()
        _calibrate_batch_norm(network, photographs)
        _calibrate_head(network, photographs, generator)
    return network


def _calibration_batch() -> Tensor:
    """The sample photographs and their mirror images, float32 [N, 3, H, W]."""
    preprocessing = Preprocessing(resize=_CALIBRATION_SIZE + 32, crop=_CALIBRATION_SIZE)
    photographs = torch.stack(
        [torch.from_numpy(preprocessing(load_image(path))) for path in sample_photographs()]
    )
    return torch.cat([photographs, photographs.flip(3)])


def _calibrate_batch_norm(network: SEResNeXt, images: Tensor) -> None:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # statistics of all that is seen, not a moving average
    network.train()
    network.features(images)
    network.eval()
    for norm in norms:
        norm.momentum = 0.1


def _calibrate_head(network: SEResNeXt, images: Tensor, generator: torch.Generator) -> None:
    features = network.features(images)
    nn.init.normal_(network.fc.weight, generator=generator)
    logits = features @ network.fc.weight.T
    scale = _LOGIT_SPREAD / logits.std(dim=0).mean()
    network.fc.weight *= scale
    network.fc.bias.copy_(-scale * logits.mean(dim=0))
