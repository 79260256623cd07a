"""Small images of every format, mode, orientation and odd size, as files."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from itertools import cycle, islice

import numpy as np
from PIL import Image

_SIZES = ((64, 64), (1, 1), (3, 200), (200, 3), (97, 61), (61, 97), (128, 96), (72, 73), (255, 31))
_MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "L", "LA", "P", "RGBA", "1", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("P", "L", "RGB"),
    "BMP": ("RGB", "L", "1"),
    "TIFF": ("RGB", "L", "RGBA", "CMYK", "I;16", "F"),
    "PPM": ("RGB", "L"),
    "JPEG2000": ("RGB", "L", "RGBA"),
    "TGA": ("RGB", "RGBA"),
    "PCX": ("RGB", "L"),
    "DIB": ("RGB",),
}
_WITH_EXIF = ("JPEG", "PNG", "WEBP", "TIFF")


def varied_images(count: int) -> list[bytes]:
    """So many files. No two of them are equal."""
    return list(islice(_images(), count))


def _images() -> Iterator[bytes]:
    random = np.random.default_rng(0)
    kinds = [(form, mode) for form, modes in _MODES.items() for mode in modes]
    for number, (form, mode) in enumerate(cycle(kinds)):
        image = _image(mode, _SIZES[number % len(_SIZES)], random)
        options: dict[str, object] = {}
        if form in _WITH_EXIF:
            exif = Image.Exif()
            exif[0x0112] = number % 10  # 0 and 9 are no orientations
            options["exif"] = exif.tobytes()
        if form == "JPEG":
            options |= {"quality": 30 + number % 70, "progressive": number % 3 == 0}
        file = BytesIO()
        image.save(file, form, **options)
        yield file.getvalue()


def _image(mode: str, size: tuple[int, int], random: np.random.Generator) -> Image.Image:
    width, height = size
    values = random.integers(0, 256, (height, width, 4), np.uint8)
    if mode == "I;16":
        return Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(values[..., 0].astype(np.float32))
    if mode in ("P", "1"):
        return Image.fromarray(values[..., :3]).convert(mode)
    image = Image.fromarray(values, "RGBA") if mode == "RGBA" else Image.fromarray(values[..., :3])
    return image.convert(mode)
