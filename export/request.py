"""What to export, as one value: it refuses what does not go together when it is made."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from seresnext101_triton.client.contract import OutputKind, Preprocessing
from seresnext101_triton.client.server_side import IMAGE_SUFFIX
from seresnext101_triton.export.errors import OptionError
from seresnext101_triton.export.format import Format
from seresnext101_triton.export.formats import DEFAULT_FORMATS, FORMATS
from seresnext101_triton.export.network import ARCHITECTURES, Architecture
from seresnext101_triton.export.precision import Precision, precision_named
from seresnext101_triton.export.quantization import Quantization
from seresnext101_triton.export.serving import ImageInput, Serving
from seresnext101_triton.server import TRITON_RELEASE
from seresnext101_triton.server.releases import release

_LONGEST_NAME = 255  # of a folder on Linux, in bytes


@dataclass(frozen=True)
class Request:
    """What to export, and how.

    Attributes:
        weights: The source of the weights, as `seresnext101_triton.export.weights.resolve` takes
            it.
        repository: The model repository.
        formats: Keys of `seresnext101_triton.export.formats.FORMATS`, or formats with options of
            their own, for example `TensorRT(Tuning(level=5))`.
        precision: A key of `seresnext101_triton.export.precision.PRECISIONS`. None means the
            default precision of each format.
        quantization: The images and the options of a quantisation. It is needed for INT8 only.
        fp32_squeeze: Whether the Squeeze-and-Excitation layers stay in FP32 if the network is cast
            to another precision.
        name: Models are called `<name>_<format>`, with the precision behind it unless it is FP32,
            and `uint8` if they take pixels.
        architecture: Every number of the network but its class count, which the weights decide.
        output: What is served.
        preprocessing: The contract for the input. With the layout `NHWC`, the model takes pixels.
        serving: How it is served.
        image_input: If it is given, each model gets a second one that takes image files, and is
            called `<model>_image`.
        target: The release of tritonserver that will serve.
        labels: A file, `none`, or None for the default.
        ema: Take the averaged weights of a checkpoint.
        force: Export even what is there already.
        allow_error: A larger relative error than the gate's own bound, for which whoever names it
            answers.

    Raises:
        OptionError: A format or a precision is unknown, or two options do not go together.
        UnknownRelease: The target is unknown.
    """

    weights: str
    repository: Path
    formats: tuple[str | Format, ...] = DEFAULT_FORMATS
    precision: str | None = None
    quantization: Quantization | None = None
    fp32_squeeze: bool = False
    name: str = "seresnext101"
    architecture: Architecture = field(default_factory=lambda: ARCHITECTURES["se-resnext101-32x4d"])
    output: OutputKind = OutputKind.PROBABILITIES
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    serving: Serving = field(default_factory=Serving)
    image_input: ImageInput | None = None
    target: str = TRITON_RELEASE
    labels: str | None = None
    ema: bool = False
    force: bool = False
    allow_error: float | None = None

    def __post_init__(self) -> None:
        names = [each if isinstance(each, str) else each.name for each in self.formats]
        if unknown := [name for name in names if name not in FORMATS]:
            known = ", ".join(FORMATS)
            raise OptionError(f"unknown format {', '.join(unknown)}: choose from {known}")
        if not self.formats:
            raise OptionError(f"no format: choose from {', '.join(FORMATS)}")
        if not re.fullmatch("[A-Za-z0-9_-]+", self.name):
            raise OptionError(
                f"`name` {self.name!r} may have ASCII letters, digits, - and _ only: any others "
                "are not served over HTTP"
            )
        if self.labels is not None and not self.labels.strip():
            raise OptionError("`labels` is empty: name a file with one class a line, or `none`")
        variants = self.variants
        for variant in variants:
            if len(self.model(variant) + IMAGE_SUFFIX) > _LONGEST_NAME:
                raise OptionError(
                    f"`name` is too long: {self.name[:20]}..._{variant.name} would be over "
                    f"{_LONGEST_NAME} characters"
                )
            variant.format.check(variant.precision, self.serving)
        precisions = {variant.precision for variant in variants}
        if any(each.quantized for each in precisions) != (self.quantization is not None):
            raise OptionError(
                "`precision=int8` and `calibration=DIR`, the images to quantise with, go together: "
                "name both"
            )
        if self.allow_error is not None and not (0 < self.allow_error < math.inf):
            raise OptionError(f"`allow_error` must be a number above 0, not {self.allow_error}")
        if self.fp32_squeeze and not any(each.fp32_squeeze for each in precisions):
            raise OptionError("`fp32_squeeze` is for FP16: name it with `precision=fp16`")
        release(self.target)

    def model(self, variant: Variant) -> str:
        """The name that a variant is served by."""
        return f"{self.name}_{variant.name}"

    @property
    def variants(self) -> list[Variant]:
        """What the formats are exported as, each once."""
        formats = [FORMATS[each] if isinstance(each, str) else each for each in self.formats]
        return [
            Variant(format, self._precision_of(format), self.preprocessing.takes_pixels)
            for format in {format.name: format for format in formats}.values()
        ]

    def _precision_of(self, format: Format) -> Precision:
        """The precision that was asked for, as this format has it."""
        precision = format.default_precision
        if self.precision is not None:
            named = precision_named(self.precision)
            precision = next((each for each in format.precisions if each.name == named.name), named)
        return precision.with_fp32_squeeze() if self.fp32_squeeze else precision


@dataclass(frozen=True)
class Variant:
    """One format in one precision: what becomes one model.

    Attributes:
        format: The format.
        precision: The precision.
        takes_pixels: Whether the model normalises pixels itself.
    """

    format: Format
    precision: Precision
    takes_pixels: bool = False

    @property
    def name(self) -> str:
        """What stands behind the request's name in the model's."""
        return f"{self.format.label(self.precision)}{'_uint8' if self.takes_pixels else ''}"
