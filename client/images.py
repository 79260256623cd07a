"""Opening pictures, with errors that say which file is at fault and why."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from client.errors import ImageError

ImageSource: TypeAlias = "str | Path | bytes | Image.Image | np.ndarray"

PHOTOGRAPHS = Path(__file__).with_name("photographs")


def sample_photographs() -> list[Path]:
    """The photographs that ship with the client, in a fixed order."""
    return sorted(PHOTOGRAPHS.glob("*.jpg"))


def load_image(source: ImageSource) -> Image.Image:
    """Decode one picture completely.

    Args:
        source: A path, the bytes of an image file, a Pillow image, or a uint8 array [height, width, 3] in RGB order.

    Raises:
        ImageError: It is missing, a folder, empty, truncated, no image, or larger than Pillow's decompression-bomb limit.
    """
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or 0 in source.shape:
            raise ImageError(f"an array must be uint8 [height, width, 3], not {source.dtype} {list(source.shape)}")
        return Image.fromarray(source)
    if isinstance(source, bytes):
        return _decode(source, f"{len(source)} bytes")
    path = Path(source)
    try:
        return _decode(path.read_bytes(), str(path))
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder: name the images in it, for example {path}/*.jpg") from None
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist") from None
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from None


def _decode(content: bytes, name: str) -> Image.Image:
    if not content:
        raise ImageError(f"{name} is empty (0 bytes)")
    try:
        image = Image.open(BytesIO(content))
        image.load()
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not an image that Pillow can read: it begins with {content[:8]!r}") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is refused: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's decoders raise all three for damaged files
        raise ImageError(f"{name} is damaged or truncated: {error}") from None
    return image
