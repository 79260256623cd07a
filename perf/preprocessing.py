"""The time to turn JPEG files into tensors on one core.

It compares this client with torchvision and with NVIDIA's helper.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.fast import FILTER
from seresnext101_triton.client.images import ImageOptions, load_image, sample_photographs
from seresnext101_triton.perf.turns import Turn, take_turns

# Blocks of memory that Pillow keeps: its own default, and what the command line of the client sets.
_PILLOW_BLOCKS, _CLIENT_BLOCKS = 0, 8
_QUALITY = 90
Prepare = Callable[[bytes], Any]


@dataclass(frozen=True)
class Speed:
    """One way to prepare images of one size.

    Attributes:
        name: The name of the way.
        size: Width and height of the images, in pixels.
        milliseconds: The mean time for one image in every turn.
        equal: Whether its tensors are equal to torchvision's, bit for bit.
        levels: The largest difference to torchvision's pixels, in levels of 255.
    """

    name: str
    size: tuple[int, int]
    milliseconds: tuple[float, ...]
    equal: bool
    levels: float

    @property
    def median(self) -> float:
        """The median of the turns, in milliseconds."""
        return float(np.median(self.milliseconds))


def measure_preprocessing(sizes: Sequence[tuple[int, int]], turns: int) -> list[Speed]:
    """Prepare the sample photographs as JPEG files of each size, decoding included.

    Args:
        sizes: Widths and heights, in pixels.
        turns: The number of turns of each way at each size.
    """
    ways = _ways()
    with _one_core():
        return [speed for size in sizes for speed in _measure(ways, size, turns)]


def _measure(ways: dict[str, Prepare], size: tuple[int, int], turns: int) -> list[Speed]:
    files = [jpeg(load_image(path), size) for path in sample_photographs()]
    reference = [ways["torchvision"](file) for file in files]
    contestants: dict[str, Turn] = {
        name: partial(_milliseconds, prepare, files, _blocks(name))
        for name, prepare in ways.items()
    }
    times = take_turns(contestants, turns, warmup_rounds=1).turns
    speeds = []
    for name, prepare in ways.items():
        pairs = [
            (np.asarray(prepare(file)), np.asarray(tensor))
            for file, tensor in zip(files, reference, strict=True)
        ]
        equal = all(np.array_equal(found, wanted) for found, wanted in pairs)
        levels = max(_levels(found - wanted) for found, wanted in pairs)
        speeds.append(Speed(name, size, tuple(times[name]), equal, levels))
    return speeds


def _levels(difference: np.ndarray) -> float:
    """The largest difference of normalised values [3, ...], in levels of 255."""
    levels = np.abs(difference).reshape(3, -1).max(1) * np.array(Preprocessing().std) * 255
    return round(float(levels.max()), 3)


def _milliseconds(prepare: Prepare, files: list[bytes], blocks: int) -> float:
    """The mean time to prepare one of these files, in milliseconds."""
    Image.core.set_blocks_max(blocks)  # type: ignore[attr-defined]
    prepare(files[-1])  # setting the blocks released all of them, so the first image is slower
    started = time.perf_counter()
    for file in files:
        prepare(file)
    return (time.perf_counter() - started) / len(files) * 1e3


def _blocks(name: str) -> int:
    return _CLIENT_BLOCKS if name.startswith("client") else _PILLOW_BLOCKS


@contextmanager
def _one_core() -> Iterator[None]:
    """Keep this thread on one core, and restore afterwards what a measurement changes."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    blocks = Image.core.get_blocks_max()  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)
        Image.core.set_blocks_max(blocks)  # type: ignore[attr-defined]


def _ways() -> dict[str, Prepare]:
    contract = Preprocessing()
    transforms, _ = import_torchvision()
    geometry = [
        transforms.Resize(contract.resize),
        transforms.CenterCrop(contract.crop),
        transforms.ToTensor(),
    ]
    normalize = transforms.Normalize(contract.mean, contract.std)
    torchvision = transforms.Compose([*geometry, normalize])
    resized = transforms.Compose(geometry)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (contract.mean, contract.std))

    def nvidia(file: bytes) -> torch.Tensor:
        """`nvidia_convnets_processing_utils().prepare_input_from_uri` without its download."""
        tensor = resized(Image.open(io.BytesIO(file))).unsqueeze(0)
        return ((tensor.float() - mean) / std)[0]

    def client(options: ImageOptions) -> Prepare:
        return lambda file: contract.prepared(load_image(file, options), is_fast=options.fast)

    return {
        "torchvision": lambda file: torchvision(Image.open(io.BytesIO(file)).convert("RGB")),
        "NVIDIA's helper": nvidia,
    } | {
        ", ".join(["client", *options.inexact]): client(options) for options in options_of(contract)
    }


def options_of(contract: Preprocessing) -> list[ImageOptions]:
    """How the client can open images for a model: exactly first, then with each inexact option."""
    speeds = (False, True) if contract.interpolation == FILTER else (False,)
    return [
        ImageOptions(draft=draft, fast=fast) for fast in speeds for draft in (None, contract.resize)
    ]


def jpeg(image: Image.Image, size: tuple[int, int]) -> bytes:
    """An image as a JPEG file of this width and height, in pixels."""
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def import_torchvision() -> tuple[Any, Any]:
    """Import torchvision beside a CPU build of torch.

    There, torchvision fails to register fake kernels for operators that this build does not have.
    While it is imported, such a failure is ignored.

    Returns:
        The modules `torchvision.transforms` and the class `InterpolationMode`.
    """
    register = torch.library.register_fake

    def tolerant(*arguments: Any, **options: Any) -> Any:
        decorate = register(*arguments, **options)

        def attempt(function: Any) -> Any:
            try:
                return decorate(function)
            except RuntimeError:
                return function

        return attempt

    torch.library.register_fake = tolerant
    try:
        from torchvision import transforms
    finally:
        torch.library.register_fake = register
    return transforms, transforms.InterpolationMode
