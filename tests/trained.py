"""A small trained network of the family: random weights prove nothing about lost accuracy.

The result of a training differs between processors, and so would the results of the tests.
Therefore the weights are stored in `tests/data/digits.safetensors`; `python -m tests.trained`
trains them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.images import load_image
from seresnext101_triton.export.network import ARCHITECTURES, SEResNeXt
from seresnext101_triton.export.quantization import Quantization
from seresnext101_triton.export.request import Request

CONTRACT = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
ARCHITECTURE = replace(ARCHITECTURES["se-resnext-tiny"], classes=10)
WEIGHTS = Path(__file__).with_name("data") / "digits.safetensors"
_EPOCHS = 14
_BATCH = 64


@dataclass(frozen=True)
class Trained:
    """A checkpoint, and the images it was and was not trained on, a folder for each class."""

    checkpoint: Path
    seen: Path
    unseen: Path


def digits_request(digits: Trained, repository: Path, **changes: object) -> Request:
    """A request to export the trained network; by default in INT8, with its own training images."""
    options: dict[str, object] = {
        "weights": str(digits.checkpoint),
        "repository": repository,
        "formats": ("openvino", "onnx"),
        "precision": "int8",
        "quantization": Quantization(digits.seen, truth=digits.seen),
        "name": "digits",
        "architecture": ARCHITECTURE,
        "preprocessing": CONTRACT,
        "labels": "none",
    }
    return Request(**options | changes)  # type: ignore[arg-type]


def digits_in(folder: Path) -> Trained:
    """scikit-learn's 1797 handwritten digits (UCI, Alpaydin and Kaynak), written as images.

    With them comes the network that was trained on one half of them.
    """
    digits = load_digits()
    for index, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / ("seen" if index % 2 else "unseen") / str(digit) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        square = Image.fromarray((pixels * 255 / 16).astype(np.uint8)).resize(
            (32, 32), Image.Resampling.BILINEAR
        )
        canvas = Image.new("RGB", (36, 36))
        canvas.paste(square, (2, 2))
        canvas.save(path)
    return Trained(WEIGHTS, folder / "seen", folder / "unseen")


def train(seen: Path) -> SEResNeXt:
    """Train on images in a folder for each class: ten seconds to half a minute."""
    paths = sorted(seen.rglob("*.png"))
    images = torch.from_numpy(np.stack([CONTRACT(load_image(path)) for path in paths]))
    return _fit(images, torch.tensor([int(path.parent.name) for path in paths]))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread, which takes a third longer on an idle machine.

    On a loaded machine two threads would wait for each other at every layer.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fit(images: torch.Tensor, classes: torch.Tensor) -> SEResNeXt:
    with torch.random.fork_rng(), _one_thread():
        torch.manual_seed(0)
        network = SEResNeXt(ARCHITECTURE)
        network.train()
        steps = _EPOCHS * (len(images) // _BATCH)
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
        for _ in range(_EPOCHS):
            order = torch.randperm(len(images))
            for start in range(0, len(images) - _BATCH + 1, _BATCH):
                chosen = order[start : start + _BATCH]
                shift = torch.randint(-2, 3, (2,)).tolist()
                scores = network(torch.roll(images[chosen], shift, dims=(2, 3)))
                loss = torch.nn.functional.cross_entropy(scores, classes[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return network.eval()


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        WEIGHTS.parent.mkdir(exist_ok=True)
        save_file(train(digits_in(Path(scratch)).seen).state_dict(), WEIGHTS)
