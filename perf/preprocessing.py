"""How fast pictures become tensors, on one core: this client against torchvision's pipeline and NVIDIA's helper, by turns."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from client.images import Opening, load_image, sample_photographs
from client.preprocessing import Preprocessing

SIZES = ((500, 375), (1280, 960), (4000, 3000))
_PILLOWS_OWN_BLOCKS, _OUR_BLOCKS = 0, 8  # `client.images` has Pillow keep memory; a program without this client does not
_QUALITY = 90


@dataclass(frozen=True)
class Speed:
    """One way to prepare pictures of one size.

    Attributes:
        milliseconds: For one picture, of every turn.
        equal: Whether its tensors are torchvision's, bit for bit.
    """

    name: str
    size: tuple[int, int]
    milliseconds: tuple[float, ...]
    equal: bool

    @property
    def median(self) -> float:
        """Over the turns, in milliseconds."""
        return float(np.median(self.milliseconds))


def measure(turns: int) -> list[Speed]:
    """Prepare the sample photographs as JPEGs of each size, decoding included.

    Args:
        turns: How often each way has its turn at each size.
    """
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    ways = _ways()
    results = []
    for size in SIZES:
        files = [_jpeg(load_image(path), size) for path in sample_photographs()]
        reference = [ways["torchvision"](file) for file in files]
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(turns + 1):
            for name, prepare in ways.items():
                Image.core.set_blocks_max(_OUR_BLOCKS if name.startswith("client") else _PILLOWS_OWN_BLOCKS)  # type: ignore[attr-defined]
                prepare(files[-1])  # every turn begins warm: setting the blocks has just given all of them back
                started = time.perf_counter()
                for file in files:
                    prepare(file)
                if turn:  # the first warms up
                    times[name].append((time.perf_counter() - started) / len(files) * 1e3)
        for name, prepare in ways.items():
            equal = all(np.array_equal(prepare(file), tensor) for file, tensor in zip(files, reference, strict=True))
            results.append(Speed(name, size, tuple(times[name]), equal))
    return results


def _ways() -> dict[str, Callable[[bytes], Any]]:
    contract = Preprocessing()
    transforms, _ = import_torchvision()
    geometry = [transforms.Resize(contract.resize), transforms.CenterCrop(contract.crop), transforms.ToTensor()]
    whole = transforms.Compose([*geometry, transforms.Normalize(contract.mean, contract.std)])
    part = transforms.Compose(geometry)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (contract.mean, contract.std))

    def nvidia(file: bytes) -> torch.Tensor:
        """The steps of `nvidia_convnets_processing_utils().prepare_input_from_uri`, without its download."""
        tensor = part(Image.open(io.BytesIO(file))).unsqueeze(0)
        return ((tensor.float() - mean) / std)[0]

    return {
        "torchvision": lambda file: whole(Image.open(io.BytesIO(file)).convert("RGB")),
        "NVIDIA's helper": nvidia,
        "client": lambda file: contract(load_image(file)),
        "client, draft": lambda file: contract(load_image(file, Opening(draft=contract.resize))),
    }


def _jpeg(image: Image.Image, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def import_torchvision() -> tuple[Any, Any]:
    """Its transforms and its interpolation modes.

    Beside a CPU-only torch, torchvision stops at registering fake kernels for operators that build does not have.
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
