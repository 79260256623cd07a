"""Converts a decoded image of any mode to RGB.

The depth of an image is that of its file format, never its own maximum. Transparent pixels are
laid over white.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFile

from seresnext101_triton.client.errors import ImageError

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF 6.0
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 0, 1, 2
_KEY_SCALE = {
    "L;2": 85,
    "L;4": 17,
}  # Pillow scales such pixels to 8 bits, and leaves the transparent value as it was


def raw_mode(image: Image.Image) -> str:
    """Pillow's name of the layout of the samples in the file; empty if it is not known.

    The pixels of the image must not be loaded yet.
    """
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def to_rgb(image: Image.Image, raw: str = "", low_bytes: Image.Image | None = None) -> Image.Image:
    """The image in RGB, with 8 bits for each channel.

    Of 12, 16 and 32 bits the highest 8 are taken, as Pillow does for PNGs of 16 bits and colour.
    The values of float images must all lie in [0, 1], or all in [0, 255]. Colour profiles are
    ignored, as torchvision ignores them.

    Args:
        image: An image whose pixels are loaded.
        raw: What `raw_mode` returned before they were loaded.
        low_bytes: The lower 8 bits of a PNG of 16 bits for each channel with a transparent colour.

    Raises:
        ImageError: The meaning of the values is not known: negative integers, floats above 255,
            infinite values.
    """
    if image.mode == "RGB":
        # Pillow keeps the transparent colour of an image that the caller has converted to RGB. The
        # caller wants the pixels of such an image as they are.
        from_file = isinstance(image, ImageFile.ImageFile) and "transparency" in image.info
        return _without_colour(image, raw, low_bytes) if from_file else image
    if image.mode.startswith("I;16"):
        return _of_integers(image, np.asarray(image), _tag(image, _BITS, 16))
    if image.mode == "I":
        return _of_integers(image, *_integers(image))
    if image.mode == "F":
        return _grey(image, _of_floats(np.asarray(image)))
    if image.has_transparency_data:
        return _over_white(image, raw)
    return image.convert("RGB")


def _over_white(image: Image.Image, raw: str) -> Image.Image:
    if image.mode == "La":  # Pillow would convert it to L first, and lose the transparency
        image = image.convert("LA")
    if raw in _KEY_SCALE and isinstance(image.info.get("transparency"), int):
        image = image.copy()  # the image may be the caller's
        image.info["transparency"] *= _KEY_SCALE[raw]
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _without_colour(image: Image.Image, raw: str, low_bytes: Image.Image | None) -> Image.Image:
    """Make the pixels of the transparent colour white."""
    key = image.info["transparency"]
    if not isinstance(key, tuple) or len(key) != 3:
        return image
    deep = ";16" in raw
    hidden = np.ones((image.height, image.width), bool)
    for number, value in enumerate(key):
        hidden &= np.asarray(image.getchannel(number)) == (value >> 8 if deep else value)
        if deep and low_bytes is not None:
            hidden &= np.asarray(low_bytes.getchannel(number)) == value & 255
    image = image.copy()  # the image may be the caller's
    image.paste((255, 255, 255), mask=Image.fromarray(hidden.astype(np.uint8) * 255))
    return image


def _integers(image: Image.Image) -> tuple[np.ndarray, int]:
    """The values of an image of Pillow's mode I, and how many of their bits are significant."""
    values = np.asarray(image)
    if image.format in ("PNG", "PPM"):  # Pillow scales every PGM of more than 8 bits to 16
        return values, 16
    if image.format != "TIFF":
        raise ImageError(
            "an image of Pillow's mode I does not say how deep it is: convert it to L or I;16"
        )
    bits, kind = _tag(image, _BITS, 1), _tag(image, _SAMPLE_FORMAT, _UNSIGNED)
    if kind == _UNSIGNED:
        return values.view(np.uint32), bits
    if kind == _SIGNED and values.min() >= 0:
        return values, bits - 1  # TIFF 6.0: 0 is black, and the largest value white
    raise ImageError(
        f"it holds negative numbers (down to {values.min()}), and which of them is black is not "
        "known"
    )


def _of_integers(image: Image.Image, values: np.ndarray, bits: int) -> Image.Image:
    grey = (values >> max(bits - 8, 0)).clip(0, 255).astype(np.uint8)
    key = image.info.get("transparency")
    picture = _grey(image, grey)
    if isinstance(key, int):
        picture.paste((255, 255, 255), mask=Image.fromarray((values == key).astype(np.uint8) * 255))
    return picture


def _of_floats(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("it holds numbers that are not finite")
    if low < 0 or high > 255:
        raise ImageError(
            f"its numbers reach from {low:g} to {high:g}, and only [0, 1] and [0, 255] say what is "
            "white"
        )
    return np.rint(values * np.float32(255) if high <= 1 else values).astype(np.uint8)


def _grey(image: Image.Image, values: np.ndarray) -> Image.Image:
    """RGB from 8 bits of grey.

    The values of a file in which 0 is white are inverted. Pillow does so for 8 bits only.
    """
    if image.format == "TIFF" and _tag(image, _PHOTOMETRIC, _UNSIGNED) == _WHITE_IS_ZERO:
        values = 255 - values
    return Image.fromarray(values).convert("RGB")


def _tag(image: Image.Image, number: int, otherwise: int) -> int:
    """The first value of a TIFF's tag."""
    value = getattr(image, "tag_v2", {}).get(number, otherwise)
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int) else otherwise
