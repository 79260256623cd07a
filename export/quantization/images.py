"""The images that a network is quantised with.

Most of them calibrate; every fifth is held out, and judges the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.errors import ClientError
from seresnext101_triton.client.images import load_image
from seresnext101_triton.client.sources import expand, readable
from seresnext101_triton.client.truth import read_truth
from seresnext101_triton.export.errors import CalibrationError
from seresnext101_triton.export.quantization import Quantization
from seresnext101_triton.export.samples import Samples
from seresnext101_triton.server.digest import sha256

ADVISED = 100
MOST = 500
_LEAST = 10
_HELD_OUT = 5  # every fifth


class Images:
    """The images of one quantisation; of a larger folder, so many from all over it.

    Args:
        options: Where they are, and their classes.
        preprocessing: The contract for the network's input.

    Attributes:
        calibration: Paths of those that calibrate.
        held_out: Paths of those that judge.

    Raises:
        CalibrationError: There are none, or too few.
    """

    def __init__(self, options: Quantization, preprocessing: Preprocessing) -> None:
        self._options = options
        self._preprocessing = preprocessing
        if not options.calibration.is_dir():
            raise CalibrationError(
                f"{options.calibration} is no folder of images to calibrate with"
            )
        try:
            paths = [Path(name) for name in readable(expand([str(options.calibration)]))]
        except (ClientError, OSError) as error:
            raise CalibrationError(f"no images to calibrate with: {error}") from None
        if len(paths) < _LEAST:
            raise CalibrationError(
                f"{options.calibration} holds {len(paths)} images, and at least {_LEAST} are "
                "needed to calibrate: "
                f"give {ADVISED} to {MOST} like those that will be served"
            )
        paths = paths[:: -(-len(paths) // MOST)]
        self.held_out = paths[_HELD_OUT - 1 :: _HELD_OUT]
        self.calibration = [
            path for index, path in enumerate(paths) if index % _HELD_OUT != _HELD_OUT - 1
        ]

    def digest(self) -> str:
        """A digest of every image's content and of how it is prepared.

        It is equal for two sets of images that give the same statistics.
        """
        return hashlib.sha256(
            " ".join([*self._digests, repr(self._preprocessing)]).encode()
        ).hexdigest()

    def classes_digest(self) -> str:
        """Of what tells the images' classes; empty where nothing does."""
        source = self._options.truth
        if source is None or not source.exists():  # reading it says so
            return ""
        if source.is_file():
            try:
                return sha256(source)
            except OSError as error:
                raise CalibrationError(f"{source} cannot be read: {error.strerror}") from None
        return hashlib.sha256(" ".join(sorted(map(str, source.rglob("*")))).encode()).hexdigest()

    @cached_property
    def _digests(self) -> list[str]:
        try:
            return [sha256(path) for path in [*self.calibration, *self.held_out]]
        except OSError as error:
            raise CalibrationError(
                f"an image to calibrate with cannot be read: {error.filename}: {error.strerror}"
            ) from None

    def prepared(self, paths: list[Path]) -> Iterator[np.ndarray]:
        """Each image as the network takes it, float32 [3, crop, crop].

        Raises:
            CalibrationError: One cannot be read.
        """
        return map(self._preprocessing, self._opened(paths))

    def _opened(self, paths: list[Path]) -> Iterator[Image.Image]:
        for path in paths:
            try:
                yield load_image(path)
            except ClientError as error:
                raise CalibrationError(
                    f"an image to calibrate with cannot be read: {error}"
                ) from None

    def samples(self, classes: int) -> Samples:
        """The images that were held out, for the gate; with their classes where those are known.

        Raises:
            CalibrationError: The classes cannot be read, or one of the images has none.
        """
        options, preprocessing = self._options, self._preprocessing
        pixels = None
        if preprocessing.takes_pixels:
            pixels = np.stack([preprocessing.pixels(each) for each in self._opened(self.held_out)])
            inputs = np.stack([preprocessing.normalised(each) for each in pixels])
        else:
            inputs = np.stack(list(self.prepared(self.held_out)))
        return Samples(
            [path.name for path in self.held_out],
            inputs,
            self._truth(options.truth, classes) if options.truth else None,
            options.min_agreement,
            options.max_loss,
            pixels,
        )

    def _truth(self, source: Path, classes: int) -> np.ndarray:
        try:
            truth = {
                Path(image).resolve(): index for image, index in read_truth(source, classes).items()
            }
        except ClientError as error:
            raise CalibrationError(str(error)) from None
        if unknown := [path for path in self.held_out if path.resolve() not in truth]:
            raise CalibrationError(
                f"{source} tells no class of {unknown[0]}, nor of {len(unknown) - 1} others that "
                "were held out"
            )
        return np.array([truth[path.resolve()] for path in self.held_out])
