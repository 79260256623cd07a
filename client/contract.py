"""The contract between a served model and its client.

The contract says how an image becomes the model's input and what the model's output means. It
travels in the `parameters` of the model's config.pbtxt: `export` writes it, the client reads it,
and no constant is copied by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
from PIL import Image

from seresnext101_triton.client import fast, resampling
from seresnext101_triton.client.errors import ContractError

PREPROCESSING_PREFIX = "preprocessing."
OUTPUT_KIND_PARAMETER = "output.kind"
# Present only if the weights were made from a seed, so that the labels have no meaning.
WEIGHTS_PARAMETER, SEEDED = "weights", "seeded"
# Present only if the artifact was published with a larger error than the export allows by default.
ALLOWED_ERROR_PARAMETER = "parity.allow_error"
UNPROVEN_PARAMETER = "parity.unproven"
# The version of a model that answers a share of the requests for a time. A caller that keeps to one
# version keeps to another one.
CANARY_PARAMETER = "canary"
# Pixels of a resized image that is held in memory as a whole. Pillow uses 4 bytes for each.
_MAX_RESIZED_PIXELS = 1 << 24
# The layouts: normalised values, channels first, and pixels that the model normalises itself.
NORMALISED, PIXELS = "NCHW", "NHWC"
_LARGEST_INPUT = 65504  # of FP16, so that a model of any precision can take the input
_INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class OutputKind(str, Enum):  # noqa: UP042  (StrEnum needs Python 3.11)
    """What the values of the model's output are, as the parameter `output.kind` says."""

    PROBABILITIES = "probabilities"
    LOGITS = "logits"

    __str__ = str.__str__

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> OutputKind:
        """Read the kind from a served model's parameters.

        Raises:
            ContractError: The parameter is missing or has an unknown value.
        """
        kind = parameters.get(OUTPUT_KIND_PARAMETER, "missing")
        if kind not in set(cls):
            raise ContractError(f"its parameter {OUTPUT_KIND_PARAMETER!r} is {kind}")
        return cls(kind)


@dataclass(frozen=True)
class Preprocessing:
    """How an RGB image becomes the model's input.

    The defaults are NVIDIA's for this network (`configs.yml`, `entrypoints.py`).

    Attributes:
        resize: Length in pixels to which the shorter side is resized.
        crop: Side in pixels of the square that is cut from the centre.
        interpolation: Filter of the resize, `bilinear` or `bicubic`, with Pillow's antialiasing.
        mean: Mean of each channel (R, G, B), in units of [0, 1].
        std: Standard deviation of each channel (R, G, B), in units of [0, 1].
        layout: What the tensor holds. `NCHW`: normalised values, float32 [3, crop, crop]. `NHWC`:
            pixels, uint8 [crop, crop, 3], which the model normalises itself.

    Raises:
        ContractError: A value is out of range.
    """

    resize: int = 256
    crop: int = 224
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    layout: str = NORMALISED

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.resize:
            raise ContractError(
                f"preprocessing: crop {self.crop} must be between 1 and resize {self.resize}"
            )
        if self.interpolation not in _INTERPOLATIONS:
            known = ", ".join(_INTERPOLATIONS)
            raise ContractError(
                f"preprocessing: interpolation {self.interpolation!r} is not one of {known}"
            )
        if self.layout not in (NORMALISED, PIXELS):
            raise ContractError(
                f"preprocessing: layout {self.layout!r} is not {NORMALISED} or {PIXELS}"
            )
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ContractError(
                "preprocessing: mean and std take three values each, for R, G and B"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ContractError(
                f"preprocessing: mean {self.mean} and std {self.std} must be finite, std above 0"
            )
        for mean, std in zip(self.mean, self.std, strict=True):
            largest = max(abs(mean), abs(1 - mean)) / std  # of black and of white
            if largest > _LARGEST_INPUT:
                raise ContractError(
                    f"preprocessing: mean {mean} and std {std} make inputs of {largest:.3g}, over "
                    f"the largest number of FP16, {_LARGEST_INPUT}: both are in units of [0, 1]"
                )

    @property
    def takes_pixels(self) -> bool:
        """Whether the model's input are pixels, which it normalises itself."""
        return self.layout == PIXELS

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the model's input for one image."""
        return (self.crop, self.crop, 3) if self.takes_pixels else (3, self.crop, self.crop)

    @property
    def dtype(self) -> np.dtype:
        """Type of the model's input: uint8 or float32."""
        return np.dtype(np.uint8 if self.takes_pixels else np.float32)

    def to_parameters(self) -> dict[str, str]:
        """The preprocessing as model parameters. This is the inverse of `from_parameters`."""
        return {
            f"{PREPROCESSING_PREFIX}resize": str(self.resize),
            f"{PREPROCESSING_PREFIX}crop": str(self.crop),
            f"{PREPROCESSING_PREFIX}interpolation": self.interpolation,
            f"{PREPROCESSING_PREFIX}mean": ", ".join(map(repr, self.mean)),
            f"{PREPROCESSING_PREFIX}std": ", ".join(map(repr, self.std)),
            f"{PREPROCESSING_PREFIX}layout": self.layout,
        }

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> Preprocessing:
        """Read the preprocessing from a served model's parameters.

        Raises:
            ContractError: A parameter is missing or cannot be read.
        """
        try:
            values = {
                name: parameters[PREPROCESSING_PREFIX + name] for name in cls.__dataclass_fields__
            }
            mean, std = (
                tuple(float(part) for part in values[name].split(",")) for name in ("mean", "std")
            )
            return cls(
                resize=int(values["resize"]),
                crop=int(values["crop"]),
                interpolation=values["interpolation"],
                mean=mean,  # type: ignore[arg-type]  # __post_init__ checks the length
                std=std,  # type: ignore[arg-type]
                layout=values["layout"],
            )
        except KeyError as missing:
            raise ContractError(f"the model's parameters lack {missing}") from None
        except ValueError as error:
            raise ContractError(
                f"the model's preprocessing parameters cannot be read: {error}"
            ) from None

    def prepared(self, image: Image.Image, *, is_fast: bool = False) -> np.ndarray:
        """One image as the model takes it, `dtype` of `shape`.

        Args:
            image: An image of any size. A mode other than RGB is converted.
            is_fast: Resize as `seresnext101_triton.client.fast` does, which is not exact. The
                filter must be bilinear.
        """
        window = self._window(image, is_fast=is_fast)
        return np.asarray(window) if self.takes_pixels else self._values(window)

    def __call__(self, image: Image.Image, out: np.ndarray | None = None) -> np.ndarray:
        """Prepare one image, and normalise it.

        The result equals that of torchvision's Resize, CenterCrop, ToTensor and Normalize on Pillow
        images, bit for bit. Memory is bounded by the pixels of the image and of the crop.

        Args:
            image: An image of any size. A mode other than RGB is converted.
            out: The array to write to, float32 [3, crop, crop], for example a row of a batch.
                If it is None, a new array is made.

        Returns:
            float32 [3, crop, crop].
        """
        return self._values(self._window(image), out)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The part of an image that the network sees, uint8 [crop, crop, 3]."""
        return np.asarray(self._window(image))

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """Normalise pixels as `__call__` does: uint8 [crop, crop, 3] to float32 [3, crop, crop]."""
        tensor = np.empty((3, *pixels.shape[:2]), np.float32)
        self._normalise(tensor, np.moveaxis(pixels, 2, 0))
        return tensor

    def _values(self, window: Image.Image, out: np.ndarray | None = None) -> np.ndarray:
        tensor = np.empty((3, self.crop, self.crop), np.float32) if out is None else out
        # Arithmetic on whole channels: a table of the 256 results took four times as long.
        self._normalise(tensor, window.split())
        return tensor

    def _normalise(self, tensor: np.ndarray, bands: Iterable[np.ndarray | Image.Image]) -> None:
        for values, band, mean, std in zip(tensor, bands, self.mean, self.std, strict=True):
            values[...] = band
            values /= np.float32(255)
            values -= np.float32(mean)
            values /= np.float32(std)

    def _window(self, image: Image.Image, *, is_fast: bool = False) -> Image.Image:
        """The part of an image that the network sees, RGB of crop x crop pixels."""
        if image.mode != "RGB":
            image = image.convert("RGB")
        width, height = image.size
        shorter, longer = min(width, height), max(width, height)
        longer = int(self.resize * longer / shorter)
        size = (self.resize, longer) if width <= height else (longer, self.resize)
        left, top = (round((side - self.crop) / 2.0) for side in size)
        box = (left, top, left + self.crop, top + self.crop)
        if size == image.size:
            return image.crop(box)
        if is_fast:
            return fast.window(image, size, box)
        too_large = self.resize * longer > max(_MAX_RESIZED_PIXELS, 4 * self.crop**2)
        if shorter < self.resize and too_large:
            return resampling.window(image, size, box, self.interpolation)
        filter = _INTERPOLATIONS[self.interpolation]
        if width > height:
            # Pillow's first pass is along the rows. The columns outside of the crop need no second
            # one. The result is the same, because each pass rounds to 8 bits.
            image = image.resize((longer, height), filter).crop((left, 0, box[2], height))
            size, box = (self.crop, self.resize), (0, top, self.crop, box[3])
        # A high image is resized as a whole although a crop follows: Pillow may begin with the pass
        # along the columns.
        return image.resize(size, filter).crop(box)
