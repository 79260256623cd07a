"""Opening pictures of every kind, with errors that say which one is at fault and why."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from client.errors import ImageError

ImageSource: TypeAlias = "str | Path | bytes | Image.Image | np.ndarray"

PHOTOGRAPHS = Path(__file__).with_name("photographs")
STANDARD_INPUT = "-"
# Pillow gives every picture's memory back to the kernel, which clears it anew for the next: kept, it saves up to a third of the time that
# a large one takes. At most 128 MiB, in blocks of 16 (Pillow's documentation, "Block allocator").
Image.core.set_blocks_max(8)  # type: ignore[attr-defined]
_WEB = ("http://", "https://")
_WEB_TIMEOUT_S = 30.0
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")


@dataclass(frozen=True)
class Opening:
    """How pictures are opened.

    Attributes:
        orient: Turn a picture as its EXIF orientation says. NVIDIA's own tools do not.
        draft: Length in pixels that a JPEG's shorter side must keep; its decoder may scale to 1/2, 1/4 or 1/8 down to that, which is much
            faster and not what the network was trained on. None decodes every pixel.
        max_bytes: Largest file.
        max_pixels: Largest picture; a small file can claim to be a huge one.
    """

    orient: bool = True
    draft: int | None = None
    max_bytes: int = 256 << 20
    max_pixels: int = 89_478_485  # where Pillow begins to warn of decompression bombs


def sample_photographs() -> list[Path]:
    """The photographs that ship with the client, in a fixed order."""
    return sorted(PHOTOGRAPHS.glob("*.jpg"))


def load_image(source: ImageSource, opening: Opening = Opening()) -> Image.Image:
    """Decode one picture completely, to RGB.

    Transparency is laid over white, 16 bits become 8, of an animation the first frame counts, and colour profiles are ignored, as
    torchvision ignores them.

    Args:
        source: A path, an http(s) URL, `-` for standard input, the bytes of an image file, a Pillow image, or a uint8 array
            [height, width, 3] in RGB order.
        opening: Limits and options.

    Raises:
        ImageError: It is missing, a folder, empty, truncated, no image, or over a limit.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(_oriented(source) if opening.orient else source)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or 0 in source.shape:
            raise ImageError(f"an array must be uint8 [height, width, 3], not {source.dtype} {list(source.shape)}")
        return Image.fromarray(source)
    if isinstance(source, bytes):
        return _decode(source, f"{len(source)} bytes", opening)
    if source == STANDARD_INPUT:
        return _decode(sys.stdin.buffer.read(opening.max_bytes + 1), "standard input", opening)
    if isinstance(source, str) and source.startswith(_WEB):
        return _decode(_fetch(source, opening), source, opening)
    path = Path(source)
    try:
        with path.open("rb") as file:
            return _decode(file.read(opening.max_bytes + 1), str(path), opening)
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder: name the images in it, for example {path}/*.jpg") from None
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist") from None
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from None


def _fetch(url: str, opening: Opening) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_WEB_TIMEOUT_S) as response:  # noqa: S310  (http and https only)
            return bytes(response.read(opening.max_bytes + 1))
    except urllib.error.HTTPError as error:
        raise ImageError(f"{url} cannot be fetched: {error.code} {error.reason}") from None
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ImageError(f"{url} cannot be fetched: {reason}") from None


def _decode(content: bytes, name: str, opening: Opening) -> Image.Image:
    if not content:
        raise ImageError(f"{name} is empty (0 bytes)")
    if len(content) > opening.max_bytes:
        raise ImageError(f"{name} is refused: it has more than {opening.max_bytes} bytes")
    try:
        image: Image.Image = Image.open(BytesIO(content))
        if image.width * image.height > opening.max_pixels:
            raise ImageError(f"{name} is refused: {image.width}x{image.height} is more than {opening.max_pixels} pixels")
        if opening.draft:
            image.draft("RGB", (opening.draft, opening.draft))
        image.load()
        return _to_rgb(_oriented(image) if opening.orient else image)
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not an image that Pillow can read: it begins with {content[:8]!r}") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is refused: {error}") from None
    # Pillow's decoders raise all of these for damaged files.
    except (OSError, SyntaxError, ValueError, IndexError, EOFError, MemoryError, OverflowError) as error:
        raise ImageError(f"{name} is damaged or truncated: {error}") from None


def _oriented(image: Image.Image) -> Image.Image:
    upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    return image if upright else ImageOps.exif_transpose(image)  # which copies even what it does not turn


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values >> 8 if values.max() > 255 else values).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
