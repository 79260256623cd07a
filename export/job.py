"""One running export: what was asked for, the weights, and the transaction that publishes."""

from __future__ import annotations

from dataclasses import dataclass

from seresnext101_triton.export.publication import Publication
from seresnext101_triton.export.quantization.images import Images
from seresnext101_triton.export.reporting import Reporter
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.export.request import Request
from seresnext101_triton.export.weights.provenance import Source


@dataclass(frozen=True)
class Weights:
    """Where the weights are, and the images for the quantisation.

    Attributes:
        source: Where the weights come from.
        identity: A text that is equal for two exports exactly if their weights are equal.
        images: The images that the network is quantised and judged with. None if it is not
            quantised.
    """

    source: Source
    identity: str
    images: Images | None


@dataclass(frozen=True)
class Job:
    """One running export: the request, the weights, and the transaction that publishes."""

    request: Request
    weights: Weights
    publication: Publication
    reporter: Reporter

    @property
    def repository(self) -> Repository:
        """The repository, with the models that are published already."""
        return Repository(self.publication.root)
