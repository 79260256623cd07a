"""Weights through torch.hub, as NVIDIA documents it. It runs the code of that repository, so it is only done when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from export.errors import SourceUnavailable
from export.network import Architecture, SEResNeXt
from export.weights import Provenance
from export.weights.checkpoint import build, sha256_of_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from export.reporting import Reporter

REPOSITORY = "NVIDIA/DeepLearningExamples:torchhub"
ENTRY_POINT = "nvidia_se_resnext101_32x4d"


@dataclass(frozen=True)
class HubSource:
    """NVIDIA's entry point, from its GitHub repository or from a clone of it."""

    clone: Path | None = None

    def identity(self, reporter: Reporter) -> str:
        with reporter.step(f"loading {ENTRY_POINT} through torch.hub"):
            return sha256_of_tensors(self._state)

    def load(self, architecture: Architecture, reporter: Reporter) -> tuple[SEResNeXt, Provenance]:
        network = build(self._state, architecture, f"hub:{ENTRY_POINT}")
        return network, Provenance("hub", str(self.clone or REPOSITORY), sha256_of_tensors(self._state))

    @cached_property
    def _state(self) -> dict[str, Tensor]:
        import torch

        try:
            if self.clone:
                model = torch.hub.load(str(self.clone), ENTRY_POINT, source="local", pretrained=True)
            else:
                model = torch.hub.load(REPOSITORY, ENTRY_POINT, source="github", trust_repo=True, pretrained=True)
        except Exception as error:  # what that repository's code raises is beyond us
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise SourceUnavailable(
                f"torch.hub cannot load {ENTRY_POINT} from {self.clone or REPOSITORY}: {reason}. "
                "--weights ngc fetches the same weights without that repository's code"
            ) from None
        return model.state_dict()
