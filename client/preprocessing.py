"""From a picture to the tensor the network was trained on, and the contract that says how.

The contract travels in the `parameters` of the served model's config.pbtxt: `export` writes it there, the client reads it, and nobody
copies a constant by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from client.errors import ContractError

PREFIX = "preprocessing."
_INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """How an RGB image becomes a float32 tensor. The defaults are NVIDIA's for this network (`configs.yml`, `entrypoints.py`).

    Attributes:
        resize: Length in pixels that the shorter side is resized to.
        crop: Side in pixels of the square cut from the centre.
        interpolation: Filter of the resize, `bilinear` or `bicubic`, with antialiasing as Pillow does it.
        mean: Per channel (R, G, B), in units of [0, 1].
        std: Per channel (R, G, B), in units of [0, 1].
        layout: Order of the tensor's axes; `NCHW` is the only one.

    Raises:
        ContractError: A value is out of range.
    """

    resize: int = 256
    crop: int = 224
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    layout: str = "NCHW"

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.resize:
            raise ContractError(f"preprocessing: crop {self.crop} must be between 1 and resize {self.resize}")
        if self.interpolation not in _INTERPOLATIONS:
            known = ", ".join(_INTERPOLATIONS)
            raise ContractError(f"preprocessing: interpolation {self.interpolation!r} is not one of {known}")
        if self.layout != "NCHW":
            raise ContractError(f"preprocessing: layout {self.layout!r} is not NCHW")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ContractError("preprocessing: mean and std take three values each, for R, G and B")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ContractError(f"preprocessing: mean {self.mean} and std {self.std} must be finite, std above 0")

    def to_parameters(self) -> dict[str, str]:
        """The contract as model parameters, the inverse of `from_parameters`."""
        return {
            f"{PREFIX}resize": str(self.resize),
            f"{PREFIX}crop": str(self.crop),
            f"{PREFIX}interpolation": self.interpolation,
            f"{PREFIX}mean": ", ".join(map(repr, self.mean)),
            f"{PREFIX}std": ", ".join(map(repr, self.std)),
            f"{PREFIX}layout": self.layout,
        }

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> Preprocessing:
        """Read the contract from a served model's parameters.

        Raises:
            ContractError: A part of the contract is missing or cannot be read.
        """
        try:
            values = {name: parameters[PREFIX + name] for name in cls.__dataclass_fields__}
            mean, std = (tuple(float(part) for part in values[name].split(",")) for name in ("mean", "std"))
            return cls(
                resize=int(values["resize"]),
                crop=int(values["crop"]),
                interpolation=values["interpolation"],
                mean=mean,  # type: ignore[arg-type]  # the length is checked by __post_init__
                std=std,  # type: ignore[arg-type]
                layout=values["layout"],
            )
        except KeyError as missing:
            raise ContractError(f"the model's parameters lack {missing}") from None
        except ValueError as error:
            raise ContractError(f"the model's preprocessing parameters cannot be read: {error}") from None

    def __call__(self, image: Image.Image, out: np.ndarray | None = None) -> np.ndarray:
        """Prepare one image, bit for bit as torchvision's Resize, CenterCrop, ToTensor and Normalize do on Pillow images.

        Args:
            image: Any size; a mode other than RGB is converted.
            out: Where the tensor goes, float32 [3, crop, crop], for example a row of a batch; a new one where it is None.

        Returns:
            float32 [3, crop, crop].
        """
        tensor = np.empty((3, self.crop, self.crop), np.float32) if out is None else out
        # Arithmetic on whole channels: a table of the 256 results took four times as long.
        for values, band, mean, std in zip(tensor, self._window(image).split(), self.mean, self.std, strict=True):
            values[...] = band
            values /= np.float32(255)
            values -= np.float32(mean)
            values /= np.float32(std)
        return tensor

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The part of an image that the network sees, uint8 [crop, crop, 3]."""
        return np.asarray(self._window(image))

    def _window(self, image: Image.Image) -> Image.Image:
        if image.mode != "RGB":
            image = image.convert("RGB")
        width, height = image.size
        shorter, longer = min(width, height), max(width, height)
        longer = int(self.resize * longer / shorter)
        size = (self.resize, longer) if width <= height else (longer, self.resize)
        if size != image.size:
            # The whole picture, although a crop follows: which pass Pillow does first depends on the sizes, and rounding on that.
            image = image.resize(size, _INTERPOLATIONS[self.interpolation])
        left, top = (round((side - self.crop) / 2.0) for side in size)
        return image.crop((left, top, left + self.crop, top + self.crop))
