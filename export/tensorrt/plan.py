"""What a plan is made for, how, and what is written down of it in a JSON file beside it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seresnext101_triton.export.errors import BuildError, OptionError
from seresnext101_triton.export.precision import Precision
from seresnext101_triton.server.digest import sha256
from seresnext101_triton.server.gpu import Gpu

SIDECAR_SUFFIX = ".json"
# Names of trt.HardwareCompatibilityLevel.
HARDWARE = {
    "same": "NONE",
    "same-capability": "SAME_COMPUTE_CAPABILITY",
    "ampere+": "AMPERE_PLUS",
}


@dataclass(frozen=True)
class Profile:
    """The shapes a plan takes: batches of 1 to `max`, fastest at `opt`.

    Attributes:
        input: Name of the input tensor.
        dims: Its shape without the batch axis.
    """

    input: str
    dims: tuple[int, ...]
    opt: int
    max: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Smallest, best and largest shape, in TensorRT's order."""
        return {
            "min": (1, *self.dims),
            "opt": (self.opt, *self.dims),
            "max": (self.max, *self.dims),
        }


@dataclass(frozen=True)
class Tuning:
    """How a plan is built.

    Attributes:
        opt_batch: The batch it is fastest at; 0 is the maximum.
        workspace_mib: Most memory a layer's kernel may use besides its tensors, in MiB; 0 is all
            the GPU has.
        level: TensorRT's builder optimisation level, 0 to 5; higher searches longer.
        version_compatible: Loads on newer TensorRT too, where the server allows code from plans;
            may be slower.
        hardware: A key of `HARDWARE`: which other GPUs may load it; any but `same` may be slower.

    Raises:
        OptionError: A value is out of range.
    """

    opt_batch: int = 0
    workspace_mib: int = 0
    level: int = 3
    version_compatible: bool = False
    hardware: str = "same"

    def __post_init__(self) -> None:
        if not 0 <= self.level <= 5:
            raise OptionError(f"`builder_level` is 0 to 5, not {self.level}")
        if self.opt_batch < 0 or self.workspace_mib < 0:
            raise OptionError("`opt_batch` and `workspace_mib` must not be negative")
        if self.hardware not in HARDWARE:
            raise OptionError(
                f"`hardware` must be one of {', '.join(HARDWARE)}, not {self.hardware!r}"
            )


@dataclass(frozen=True)
class BuildSpec:
    """One plan to build.

    Attributes:
        onnx: What it is built from; its types are the plan's.
        plan: Where it goes; the sidecar goes beside it.
        profile: The shapes it takes.
        tuning: How it is built.
        precision: What its layers are held to.
        cache: A folder for the timings of earlier builds.
    """

    onnx: Path
    plan: Path
    profile: Profile
    tuning: Tuning
    precision: Precision
    cache: Path


@dataclass(frozen=True)
class Plan:
    """The sidecar of a plan.

    Attributes:
        tensorrt: Version that built it, all four numbers.
        cuda: Newest CUDA of the driver it was built under.
        gpu: Name of the GPU it was built and timed on.
        compute_capability: Of that GPU, as `8.9`.
        profile: The shapes it takes.
        tuning: How it was built.
        layers: How many layers have tensors of which type: `half`, `float`, `int8`, `other`.
        builder: `tensorrt` (its Python API) or `trtexec`.
        onnx_sha256: Of the ONNX it was built from.
        plan_sha256: Of the plan.
        parity: The gate's figures, once it has passed.
    """

    tensorrt: str
    cuda: str
    driver: str
    gpu: str
    compute_capability: str
    profile: Profile
    tuning: Tuning
    layers: dict[str, int]
    builder: str
    onnx_sha256: str
    plan_sha256: str
    parity: dict[str, Any] = field(default_factory=dict)

    def write(self, plan: Path) -> None:
        """Write the sidecar of the plan at this path."""
        sidecar(plan).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def describe(
    spec: BuildSpec, gpu: Gpu, *, layers: dict[str, int], tensorrt: str, builder: str
) -> Plan:
    """Write the sidecar of a plan that has just been built."""
    facts = Plan(
        tensorrt=tensorrt,
        cuda=gpu.cuda,
        driver=gpu.driver,
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        profile=spec.profile,
        tuning=spec.tuning,
        layers=layers,
        builder=builder,
        onnx_sha256=sha256(spec.onnx),
        plan_sha256=sha256(spec.plan),
    )
    facts.write(spec.plan)
    return facts


def sidecar(plan: Path) -> Path:
    """Where the sidecar of a plan lies."""
    return plan.with_name(plan.name + SIDECAR_SUFFIX)


def read(plan: Path) -> Plan:
    """The sidecar of a plan, after a look at whether it belongs to it.

    Raises:
        BuildError: The plan or its sidecar is missing, broken, or not of the other.
    """
    try:
        content = json.loads(sidecar(plan).read_text(encoding="utf-8"))
        profile = content["profile"] | {"dims": tuple(content["profile"]["dims"])}
        facts = Plan(
            **content | {"profile": Profile(**profile), "tuning": Tuning(**content["tuning"])}
        )
        digest = sha256(plan)
    except OSError as error:
        raise BuildError(
            f"{error.filename}: {error.strerror}; a plan is used together with the "
            f"{SIDECAR_SUFFIX} file beside it"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise BuildError(f"{sidecar(plan)} does not describe a plan: {error}") from None
    if facts.plan_sha256 != digest:
        raise BuildError(
            f"{plan} is not the plan that {sidecar(plan).name} describes: copy both again"
        )
    return facts
