"""Where weights come from: NVIDIA's registry, torch.hub, a file, a URL, or a seed. Nothing is ever silently random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from export.errors import OptionError

if TYPE_CHECKING:
    from export.network import Architecture, SEResNeXt
    from export.reporting import Reporter

NGC_URL = (
    "https://api.ngc.nvidia.com/v2/models/nvidia/seresnext101_32x4d_pyt_amp/versions/20.06.0/files/"
    "nvidia_se-resnext101-32x4d_200821.pth.tar"
)


@dataclass(frozen=True)
class Provenance:
    """What a manifest says of the weights.

    Attributes:
        kind: `ngc`, `url`, `hub`, `file` or `seeded`.
        location: Where they came from.
        sha256: Of the file, or of all tensors where there is none.
        trained: False for seeded weights, whose labels mean nothing.
    """

    kind: str
    location: str
    sha256: str
    trained: bool = True


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


def resolve(text: str) -> Source:
    """The source that `--weights` names.

    Args:
        text: `ngc`, `hub`, `hub:DIR`, `seeded`, `seeded:N`, an http(s) URL, or a path.

    Raises:
        OptionError: It is none of them.
    """
    kind, _, argument = text.partition(":")
    if text.startswith(("http://", "https://")):
        from export.weights.download import UrlSource

        return UrlSource(text)
    if text == "ngc":
        from export.weights.download import UrlSource

        return UrlSource(NGC_URL, kind="ngc")
    if kind == "hub":
        from export.weights.hub import HubSource

        return HubSource(Path(argument) if argument else None)
    if kind == "seeded":
        from export.weights.seeded import SeededSource

        if argument and not argument.isdigit():
            raise OptionError(f"--weights {text}: a seed is a whole number, for example seeded:7")
        return SeededSource(int(argument or 0))
    from export.weights.checkpoint import FileSource

    return FileSource(Path(text))
