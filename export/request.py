"""What to export, as one value: it refuses what does not go together when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from client.decoding import OutputKind
from client.preprocessing import Preprocessing
from export import config
from export.errors import OptionError
from export.formats import DEFAULT_FORMATS, FORMATS, Format
from export.network import ARCHITECTURES, Architecture
from export.quantization import Quantization
from export.tensorrt.plan import PlanRequest
from server import TRITON_RELEASE
from server.releases import release

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class Request:
    """What to export, and how.

    Attributes:
        weights: As `export.weights.resolve` takes it.
        formats: Keys of `FORMATS`.
        precision: `fp32`, `fp16`, `bf16` or `int8`; None is each format's own.
        quantization: For INT8, with what and how.
        fp32_squeeze: In FP16, keep the Squeeze-and-Excitations in FP32.
        repository: The model repository.
        name: Models are called `<name>_<format>`, with the precision behind it unless it is FP32.
        architecture: Every number of the network but its class count, which the weights decide.
        target: The release of tritonserver that will serve.
        plans: What TensorRT is asked for.
        labels: A file, `none`, or None for the default.
        force: Export even what is there already.

    Raises:
        OptionError: A format or a precision is unknown, or two of the options do not go together.
        ReleaseError: The target is unknown.
    """

    weights: str
    repository: Path
    formats: tuple[str, ...] = DEFAULT_FORMATS
    precision: str | None = None
    quantization: Quantization | None = None
    fp32_squeeze: bool = False
    name: str = "seresnext101"
    architecture: Architecture = field(default_factory=lambda: ARCHITECTURES["se-resnext101-32x4d"])
    output: OutputKind = OutputKind.PROBABILITIES
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    serving: config.Serving = field(default_factory=config.Serving)
    target: str = TRITON_RELEASE
    plans: PlanRequest = field(default_factory=PlanRequest)
    labels: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if unknown := [name for name in self.formats if name not in FORMATS]:
            raise OptionError(f"unknown format {', '.join(unknown)}: choose from {', '.join(FORMATS)}")
        if not self.formats:
            raise OptionError(f"no format: choose from {', '.join(FORMATS)}")
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise OptionError(f"--name {self.name!r} may have letters, digits, - and _ only")
        if self.precision not in (None, *PRECISIONS):
            raise OptionError(f"unknown precision {self.precision}: choose from {', '.join(PRECISIONS)}")
        for variant in self.variants:
            if variant.precision not in variant.format.precisions:
                known = ", ".join(variant.format.precisions)
                raise OptionError(f"{variant.format.name} is not exported in {variant.precision}: choose from {known}")
            if variant.format.cpu_only and self.serving.device != "cpu":
                raise OptionError(f"{variant.format.name} is served on CPUs only: leave --device gpu out, or the format")
            if not variant.format.batched and (self.serving.queue_size or self.serving.queue_timeout_ms or self.serving.queue_delay_us):
                raise OptionError(f"{variant.format.name} is served without Triton's batcher: it has no queue to bound or to delay")
        if (self.precision == "int8") != (self.quantization is not None):
            raise OptionError("--precision int8 and --calibration DIR, the images to quantise with, go together: name both")
        if self.fp32_squeeze and not any(variant.precision == "fp16" for variant in self.variants):
            raise OptionError("--fp32-squeeze is for FP16: name it with --precision fp16")
        if self.plans.tuning.opt_batch > self.serving.max_batch:
            raise OptionError(f"--opt-batch {self.plans.tuning.opt_batch} is over the maximum batch, {self.serving.max_batch}")
        release(self.target)

    def model(self, variant: Variant) -> str:
        """The name that a variant is served by."""
        return f"{self.name}_{variant.name}"

    @property
    def variants(self) -> list[Variant]:
        """What the formats are exported as, each once."""
        formats = [FORMATS[name] for name in dict.fromkeys(self.formats)]
        return [Variant(format, self.precision or format.precision) for format in formats]


@dataclass(frozen=True)
class Variant:
    """One format in one precision: what becomes one model."""

    format: Format
    precision: str

    @property
    def name(self) -> str:
        """What stands behind the request's name in the model's."""
        return self.format.name if self.precision == "fp32" else f"{self.format.name}_{self.precision}"
