"""From the text that names weights to the place that they come from."""

from __future__ import annotations

import re
from pathlib import Path

from seresnext101_triton.export.errors import OptionError
from seresnext101_triton.export.weights.address import NGC_URL, check_url
from seresnext101_triton.export.weights.provenance import Source


def resolve(text: str, *, ema: bool = False) -> Source:
    """The source that the parameter `weights` names.

    Args:
        text: `ngc`, `hub`, `hub:DIR`, `seeded`, `seeded:N`, an http(s) URL, or a path.
        ema: Take the averaged weights of a checkpoint.

    Raises:
        OptionError: It is none of them, or has no averaged weights by its kind.
    """
    kind, _, argument = text.partition(":")
    if ema and kind in ("hub", "seeded"):
        raise OptionError(
            f"`ema` is for checkpoints with averaged weights, and {kind} has none: leave it out"
        )
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        from seresnext101_triton.export.weights.download import UrlSource

        if scheme[0].lower() not in ("http://", "https://"):
            raise OptionError(
                f"`weights` takes http:// and https:// URLs, not {scheme[0]}: download the file "
                "and pass its path"
            )
        return UrlSource(check_url(text), ema=ema)
    if text == "ngc":
        from seresnext101_triton.export.weights.download import UrlSource

        return UrlSource(NGC_URL, kind="ngc", ema=ema)
    if not text.strip():
        raise OptionError(
            "`weights` is empty: it takes ngc, hub, seeded, a URL or the path of a checkpoint"
        )
    if kind == "hub":
        from seresnext101_triton.export.weights.hub import HubSource

        return HubSource(Path(argument) if argument else None)
    if kind == "seeded":
        from seresnext101_triton.export.weights.seeded import SeededSource

        if argument and not re.fullmatch(r"[0-9]{1,18}", argument):
            raise OptionError(f"`weights` {text}: a seed is a whole number, for example seeded:7")
        return SeededSource(int(argument or 0))
    from seresnext101_triton.export.weights.checkpoint import FileSource

    return FileSource(Path(text), ema=ema)
