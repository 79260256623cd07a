"""The inputs that the parity gate runs an artifact on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.images import load_image, sample_photographs

_RANDOM_INPUTS = 4


@dataclass(frozen=True)
class Samples:
    """The inputs that artifacts are run on.

    Attributes:
        names: The name of each input.
        inputs: float32 [N, 3, crop, crop], as the network takes them.
        truth: The true class of each input, int [N]. None if the classes are not known.
        least_top1: The smallest allowed share of answers with the network's own first class. It is
            used in a precision that is judged by classes. Another class with a nearly equal score
            then counts as different.
        most_lost: How much of the network's accuracy may be lost, from 0 to 1. The loss of one
            sample is always allowed.
        pixels: The same inputs before they were normalised, uint8 [N, crop, crop, 3]. None unless
            artifacts take pixels.
    """

    names: list[str]
    inputs: np.ndarray
    truth: np.ndarray | None = None
    least_top1: float = 1.0
    most_lost: float = 0.0
    pixels: np.ndarray | None = None


def default_samples(preprocessing: Preprocessing) -> Samples:
    """The default inputs: photographs, then noise, then extreme inputs."""
    if preprocessing.takes_pixels:
        return _pixels(preprocessing)
    photographs = {path.name: preprocessing(load_image(path)) for path in sample_photographs()}
    shape = (3, preprocessing.crop, preprocessing.crop)
    generator = np.random.default_rng(0)
    noise = {
        f"noise {i}": generator.standard_normal(shape, dtype=np.float32)
        for i in range(_RANDOM_INPUTS)
    }
    mean, std = (
        np.array(values, np.float32)[:, None, None]
        for values in (preprocessing.mean, preprocessing.std)
    )
    black, white = (np.broadcast_to((value - mean) / std, shape) for value in (0, 1))
    extremes = {
        "zeros": np.zeros(shape, np.float32),
        "black": black,
        "white": white,
        "checkerboard": np.where(_checkers(preprocessing.crop), black, white),
    }
    inputs: dict[str, np.ndarray] = photographs | noise | extremes
    return Samples(list(inputs), np.stack(list(inputs.values())).astype(np.float32))


def _pixels(preprocessing: Preprocessing) -> Samples:
    """The same kinds of inputs as pixels."""
    shape = preprocessing.shape
    generator = np.random.default_rng(0)
    grey = np.rint(np.multiply(preprocessing.mean, 255)).clip(0, 255).astype(np.uint8)
    inputs = {
        **{path.name: preprocessing.pixels(load_image(path)) for path in sample_photographs()},
        **{
            f"noise {i}": generator.integers(0, 256, shape, np.uint8) for i in range(_RANDOM_INPUTS)
        },
        "mean": np.broadcast_to(grey, shape),
        "black": np.zeros(shape),
        "white": np.full(shape, 255),
        "checkerboard": np.where(_checkers(preprocessing.crop)[..., None], 0, np.full(shape, 255)),
    }
    pixels = np.stack(list(inputs.values())).astype(np.uint8)
    normalised = np.stack([preprocessing.normalised(each) for each in pixels])
    return Samples(list(inputs), normalised, pixels=pixels)


def _checkers(side: int) -> np.ndarray:
    """A checkerboard whose fields are pixels, bool [side, side]; True is black."""
    return np.asarray(np.indices((side, side)).sum(axis=0) % 2 == 0)
