"""One place that weights come from, and what a manifest says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from seresnext101_triton.export.network import Architecture, SEResNeXt
    from seresnext101_triton.export.reporting import Reporter


@dataclass(frozen=True)
class Provenance:
    """What a manifest says of the weights.

    Attributes:
        kind: `ngc`, `url`, `hub`, `file` or `seeded`.
        location: Where they came from.
        sha256: Of the file, or of all tensors where there is none.
        trained: False for seeded weights, whose labels mean nothing.
        taken: Which state dict of the file, for example `state_dict_ema (averaged)`; empty where it
            holds nothing else.
    """

    kind: str
    location: str
    sha256: str
    trained: bool = True
    taken: str = ""


class Source(Protocol):
    """One place weights come from."""

    def identity(self, reporter: Reporter) -> str:
        """A text that is the same exactly when the weights are; fetches them where it must."""

    def load(self, architecture: Architecture, reporter: Reporter) -> tuple[SEResNeXt, Provenance]:
        """The network with these weights, on the CPU; its class count is the weights' own.

        Raises:
            CheckpointError: They are not weights of this network.
            SourceUnavailable: They cannot be fetched.
        """
