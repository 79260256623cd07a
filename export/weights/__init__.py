"""Where weights come from: NVIDIA's registry, torch.hub, a file, a URL, or a seed.

Weights are never random unless a seed was asked for.
"""

from seresnext101_triton.export.weights.address import NGC_URL
from seresnext101_triton.export.weights.provenance import Provenance, Source
from seresnext101_triton.export.weights.resolution import resolve

__all__ = ["NGC_URL", "Provenance", "Source", "resolve"]
