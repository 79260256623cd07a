"""Images for a calibration without images of one's own: crops of this project's photographs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.perf.errors import ResultsError

_SIDE = 256  # of a written image, in pixels
_MINIMUM_SHARE = 0.4  # of the photograph's shorter side


def write_crops(folder: Path, count: int) -> None:
    """Write square crops of the photographs as JPEG files, half of them mirrored.

    Every call writes the same images. They suffice to measure speed. For a network in service, the
    ranges must come from images like those that it will classify.

    Args:
        folder: The folder to write to. It is created if it does not exist.
        count: The number of crops.

    Raises:
        ResultsError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for index, crop in enumerate(crops(count)):
            crop.save(folder / f"{index:03d}.jpg", quality=92)
    except OSError as error:
        raise ResultsError(f"{folder} cannot be written: {error.strerror}") from None


def crops(count: int) -> Iterator[Image.Image]:
    """Square crops of the photographs, half of them mirrored. Every call gives the same ones."""
    generator = np.random.default_rng(0)
    photographs = [Image.open(path).convert("RGB") for path in sample_photographs()]
    for index in range(count):
        yield _crop(photographs[index % len(photographs)], generator)


def _crop(photograph: Image.Image, generator: np.random.Generator) -> Image.Image:
    side = int(min(photograph.size) * generator.uniform(_MINIMUM_SHARE, 1))
    left, top = (int(generator.integers(0, length - side + 1)) for length in photograph.size)
    crop = photograph.crop((left, top, left + side, top + side)).resize((_SIDE, _SIDE))
    mirrored = generator.random() < 0.5
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else crop
