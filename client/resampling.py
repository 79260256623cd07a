"""Computes a part of a resized image without the rest of it.

To resize an image of 20000x1 pixels to a shorter side of 256, Pillow makes an image of
5,120,000x256 pixels, 5 GB, although the crop needs only a small part. This module computes only
that part, with Pillow's own arithmetic (src/libImaging/Resample.c): the weights are computed in
double precision and rounded to 22 binary digits after the point, and each pass is rounded to 8
bits. It only enlarges images, for which Pillow always does the horizontal pass first. Tests compare
the results with Pillow's bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

_PRECISION_BITS = 32 - 8 - 2


def window(
    image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int], interpolation: str
) -> Image.Image:
    """The result of `image.resize(size, interpolation).crop(box)`, for an enlargement.

    Args:
        image: RGB.
        size: Width and height of the whole resized image; not smaller than the image.
        box: Left, top, right and bottom of the part.
        interpolation: `bilinear` or `bicubic`.

    Returns:
        RGB, of the box's size.
    """
    support, kernel = _KERNELS[interpolation]
    left, top, right, bottom = box
    columns, horizontal = _weights(image.width, size[0], range(left, right), support, kernel)
    rows, vertical = _weights(image.height, size[1], range(top, bottom), support, kernel)
    corner = int(columns.min()), int(rows.min())
    needed = image.crop((*corner, int(columns.max()) + 1, int(rows.max()) + 1))
    pixels = np.asarray(needed).transpose(1, 0, 2)
    pixels = _pass(pixels, columns - corner[0], horizontal).transpose(1, 0, 2)
    return Image.fromarray(np.ascontiguousarray(_pass(pixels, rows - corner[1], vertical)))


def _weights(
    before: int, after: int, part: range, support: float, kernel: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """For each position of a part of an axis, the positions of the original and their weights.

    Returns:
        Positions and weights, both int64 [len(part), taps]. Unused taps have the weight 0.
    """
    center = (np.arange(part.start, part.stop) + 0.5) * (before / after)
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    end = np.minimum((center + support + 0.5).astype(np.int64), before)
    positions = first[:, None] + np.arange(int((end - first).max()))
    weights = np.where(
        positions < end[:, None], kernel(np.abs(positions - center[:, None] + 0.5)), 0.0
    )
    total = np.zeros(len(part))
    for column in weights.T:  # in Pillow's order: numpy's pairwise sum rounds differently
        total += column
    weights /= total[:, None]
    fixed = np.trunc(weights * (1 << _PRECISION_BITS) + np.where(weights < 0, -0.5, 0.5)).astype(
        np.int64
    )
    return np.minimum(positions, before - 1), fixed


def _pass(pixels: np.ndarray, positions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Resample the first axis, uint8 to uint8."""
    total = np.full((len(positions), *pixels.shape[1:]), 1 << (_PRECISION_BITS - 1), np.int64)
    for tap in range(positions.shape[1]):
        total += pixels[positions[:, tap]] * weights[:, tap, None, None]
    return (total >> _PRECISION_BITS).clip(0, 255).astype(np.uint8)


def _bilinear(distance: np.ndarray) -> np.ndarray:
    return np.where(distance < 1, 1 - distance, 0.0)


def _bicubic(distance: np.ndarray) -> np.ndarray:
    a = -0.5
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * a
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


_KERNELS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "bilinear": (1.0, _bilinear),
    "bicubic": (2.0, _bicubic),
}
