"""Resizes images with the processor's vector instructions. The result is not exact.

It uses cykooz-resizer, Python's binding of the Rust library fast_image_resize. Its arithmetic is
Pillow's with fewer digits, so that a value can differ by one of 255 levels from Pillow's. Only the
part of the image that the network sees is computed. Bicubic filters are left to Pillow: this
library clips what they overshoot at another place, and differed by up to 30 levels.
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import Any

from PIL import Image

from seresnext101_triton.client.errors import ClientError

_PACKAGE = "cykooz_resizer"
FILTER = "bilinear"  # the only one
_threads = threading.local()  # a resizer keeps its buffers, and serves one thread at a time


def check_installed() -> None:
    """Find out whether images can be resized fast here.

    Raises:
        ClientError: The package is not installed, or cannot be used.
    """
    try:
        window(Image.new("RGB", (2, 2)), (1, 1), (0, 0, 1, 1))
    except Exception as error:  # noqa: BLE001  (with an old Pillow, the package finds no pixels)
        raise ClientError(
            f"`fast` needs cykooz-resizer, which cannot be used here ({error}): pip install "
            "'cykooz-resizer>=4' 'pillow>=11', or leave `fast` out"
        ) from None


def window(
    image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]
) -> Image.Image:
    """Almost the result of `image.resize(size, Image.Resampling.BILINEAR).crop(box)`.

    Args:
        image: RGB.
        size: Width and height of the whole resized image.
        box: Left, top, right and bottom of the part.

    Returns:
        RGB, of the box's size.
    """
    library: Any = import_module(_PACKAGE)
    left, top, right, bottom = box
    across, down = image.width / size[0], image.height / size[1]
    options = library.ResizeOptions(
        resize_alg=library.ResizeAlg.convolution(library.FilterType.bilinear),
        crop_box=library.CropBox(
            left * across, top * down, (right - left) * across, (bottom - top) * down
        ),
        use_alpha=False,
    )
    part = Image.new("RGB", (right - left, bottom - top))
    if not hasattr(_threads, "resizer"):
        _threads.resizer = library.Resizer()
    _threads.resizer.resize_pil(image, part, options)
    return part
