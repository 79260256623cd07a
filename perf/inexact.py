"""What the client's inexact options change in the answers of a model."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from seresnext101_triton.client.images import ImageOptions, load_image
from seresnext101_triton.perf.console import SILENT, Progress
from seresnext101_triton.perf.crops import crops
from seresnext101_triton.perf.preprocessing import options_of
from seresnext101_triton.perf.published import PublishedModel
from seresnext101_triton.server import runtimes

_SIDE, _QUALITY = 1200, 90  # of the files, in pixels and as Pillow counts


@dataclass(frozen=True)
class Effect:
    """What options change in the answers to a number of images.

    Attributes:
        inexact: The options, `draft`, `fast` or both.
        images: The number of images.
        change: The largest change of an output of the model, divided by the largest absolute output
            for the same image.
        same_first: The number of images for which the same class is first.
    """

    inexact: Sequence[str]
    images: int
    change: float
    same_first: int


def measure_effects(
    repository: Path, model: str, images: int, progress: Progress = SILENT
) -> list[Effect]:
    """Let a model answer crops of the photographs, opened exactly and with each inexact option.

    Args:
        repository: The model repository.
        model: The name of a model that this toolkit published there. It runs without a server.
        images: The number of crops. Each is a JPEG file of 1200x1200 pixels.
        progress: It is advanced after each image.

    Raises:
        PerfError: There is no such model.
        ArtifactError: The artifact cannot run on this machine.
    """
    published = PublishedModel.find(repository, model)
    runtime = runtimes.load(published.format.runtime, published.artifact, published.parameters)
    contract = published.preprocessing

    def answer(file: bytes, options: ImageOptions) -> np.ndarray:
        tensor = contract.prepared(load_image(file, options), is_fast=options.fast)
        return runtime.run(tensor[None])[0]

    exact, *inexact = options_of(contract)
    changes: list[list[float]] = [[] for _ in inexact]
    same = [0] * len(inexact)
    for crop in crops(images):
        buffer = io.BytesIO()
        crop.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=_QUALITY)
        wanted = answer(buffer.getvalue(), exact)
        for index, options in enumerate(inexact):
            found = answer(buffer.getvalue(), options)
            changes[index].append(float(np.abs(found - wanted).max() / np.abs(wanted).max()))
            same[index] += int(found.argmax() == wanted.argmax())
        progress.advance()
    return [
        Effect(options.inexact, images, max(changes[index]), same[index])
        for index, options in enumerate(inexact)
    ]
