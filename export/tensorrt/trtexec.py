"""From ONNX to a plan through `trtexec`, where TensorRT's Python API is not installed.

NVIDIA's tritonserver image may be such a place.

Every flag is spelled out, and means the same in TensorRT 10 and 11.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from seresnext101_triton.export.errors import BuildError
from seresnext101_triton.export.tensorrt.inspection import check_precision, count_layers
from seresnext101_triton.export.tensorrt.plan import BuildSpec, Plan, describe
from seresnext101_triton.server.gpu import Gpu

IMAGE_PATH = Path("/usr/src/tensorrt/bin/trtexec")
_HARDWARE = {"same": "none", "same-capability": "sameComputeCapability", "ampere+": "ampere+"}
_VERSION = re.compile(r"\[TensorRT v(\d+)\] \[b(\d+)\]")


def find() -> Path | None:
    """The trtexec on PATH, or where NVIDIA's images have it."""
    found = shutil.which("trtexec")
    return Path(found) if found else IMAGE_PATH if IMAGE_PATH.exists() else None


def command(trtexec: Path, spec: BuildSpec, layers: Path, cache: Path) -> list[str]:
    """The line that builds the plan, and writes its layers down."""
    tuning = spec.tuning
    shapes = {
        size: f"{spec.profile.input}:{'x'.join(map(str, shape))}"
        for size, shape in spec.profile.shapes.items()
    }
    return [
        str(trtexec),
        f"--onnx={spec.onnx}",
        f"--saveEngine={spec.plan}",
        *(f"--{size}Shapes={shape}" for size, shape in shapes.items()),
        "--stronglyTyped",
        "--noTF32",
        f"--builderOptimizationLevel={tuning.level}",
        f"--hardwareCompatibilityLevel={_HARDWARE[tuning.hardware]}",
        *([f"--memPoolSize=workspace:{tuning.workspace_mib}"] if tuning.workspace_mib else []),
        *(["--versionCompatible"] if tuning.version_compatible else []),
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={layers}",
        f"--timingCacheFile={cache}",
        "--skipInference",
    ]


def build(trtexec: Path, spec: BuildSpec, gpu: Gpu, note: Callable[[str], None]) -> Plan:
    """Build a plan and its sidecar, as `builder.build` does.

    Raises:
        BuildError: trtexec failed, or its plan is not what was asked for. No sidecar is left, and a
            plan without one is not used.
    """
    layers_file = spec.plan.with_suffix(".layers.json")
    spec.cache.mkdir(parents=True, exist_ok=True)
    line = command(
        trtexec,
        spec,
        layers_file,
        spec.cache / f"trtexec-sm{gpu.compute_capability.replace('.', '')}.cache",
    )
    note(" ".join(line))
    result = subprocess.run(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    errors = "; ".join(
        text.partition("[E] ")[2] for text in result.stdout.splitlines() if "[E] " in text
    )
    if result.returncode or not spec.plan.exists():
        raise BuildError(
            f"trtexec ended with code {result.returncode} and built no plan: "
            f"{errors or result.stdout[-500:].strip()}"
        )
    layers = count_layers(layers_file.read_text())
    layers_file.unlink()
    check_precision(layers, spec.precision)
    return describe(spec, gpu, layers=layers, tensorrt=version(result.stdout), builder="trtexec")


def version(output: str) -> str:
    """TensorRT's version from trtexec's first line: `[TensorRT v101601] [b11]` is 10.16.1.11.

    Raises:
        BuildError: The line is not there.
    """
    found = _VERSION.search(output)
    if not found:
        raise BuildError("trtexec does not say which TensorRT it is of")
    number, build_number = int(found[1]), int(found[2])
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}.{build_number}"
