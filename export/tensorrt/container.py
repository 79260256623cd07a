"""Builds a plan inside the NVIDIA image that will serve it, so that it can surely load the plan."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from seresnext101_triton.export.errors import BuildError, MissingHardware
from seresnext101_triton.export.tensorrt import plan as plans
from seresnext101_triton.export.tensorrt.plan import BuildSpec, Plan

# What builds a plan in the image: the standard library and these parts of this package.
_PACKAGE = Path(__file__).parents[2]
_NEEDED = ("__init__.py", "client", "export", "server")


def command(image: str, spec: BuildSpec) -> list[str]:
    """The `docker run` line.

    This package is mounted read-only; the plan and the timing caches are written as this user.
    """
    profile, tuning = spec.profile, spec.tuning
    parts = [
        f"--volume={(_PACKAGE / part).resolve()}:/toolkit/{_PACKAGE.name}/{part}:ro"
        for part in _NEEDED
    ]
    flags = ["--version-compatible"] if tuning.version_compatible else []
    return [
        "docker", "run", "--rm", "--gpus=all", f"--user={os.getuid()}:{os.getgid()}",
        *parts, f"--volume={spec.onnx.parent.resolve()}:/onnx:ro",
        f"--volume={spec.plan.parent.resolve()}:/plan", f"--volume={spec.cache.resolve()}:/cache",
        "--workdir=/toolkit", "--env=PYTHONDONTWRITEBYTECODE=1", "--entrypoint=python3",
        image,
        "-m", "seresnext101_triton.export.tensorrt",
        f"/onnx/{spec.onnx.name}", f"/plan/{spec.plan.name}",
        f"--precision={spec.precision.name}", f"--input={profile.input}",
        f"--dims={'x'.join(map(str, profile.dims))}", f"--max-batch={profile.max}",
        f"--opt-batch={profile.opt}", f"--workspace={tuning.workspace_mib}",
        f"--builder-level={tuning.level}", f"--hardware={tuning.hardware}", *flags,
        "--cache=/cache",
    ]  # fmt: skip


def build(image: str, spec: BuildSpec, note: Callable[[str], None]) -> Plan:
    """Build a plan and its sidecar; the line that does it is noted before it runs.

    Raises:
        MissingHardware: There is no Docker here.
        BuildError: The build failed; its own words are above.
    """
    spec.cache.mkdir(parents=True, exist_ok=True)
    line = command(image, spec)
    note(shlex.join(line))
    if not shutil.which("docker"):
        raise MissingHardware(
            "docker is not installed: run this on a machine that has it, and a GPU"
        )
    result = subprocess.run(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if result.returncode:
        lines = [text for text in result.stdout.splitlines() if text.strip()]
        reason = next((text for text in lines if text.startswith("error: ")), "; ".join(lines[-3:]))
        raise BuildError(
            f"the build in {image} ended with code {result.returncode}: "
            f"{reason.removeprefix('error: ')}"
        )
    return plans.read(spec.plan)
