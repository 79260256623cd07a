"""Images to calibrate with where one has none of one's own: crops of this project's photographs, the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from client.images import sample_photographs

_SIDE = 256  # of the pictures written
_SMALLEST = 0.4  # of the photograph's shorter side


def write(folder: Path, count: int) -> None:
    """Write so many squares from anywhere in the photographs, half of them mirrored, as JPEG.

    They are enough to measure speed with. Ranges for a network in service come from images like those it will see.
    """
    generator = np.random.default_rng(0)
    photographs = [Image.open(path).convert("RGB") for path in sample_photographs()]
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        side = int(min(photograph.size) * generator.uniform(_SMALLEST, 1))
        left, top = (int(generator.integers(0, length - side + 1)) for length in photograph.size)
        crop = photograph.crop((left, top, left + side, top + side)).resize((_SIDE, _SIDE))
        mirrored = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else crop
        mirrored.save(folder / f"{index:03d}.jpg", quality=92)
