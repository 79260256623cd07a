"""Builds a plan inside the NVIDIA image that will serve it, which is the surest way to one that it can load."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from export.errors import BuildError, MissingHardware
from export.tensorrt import plan as plans
from export.tensorrt.plan import Order, Plan

_PROJECT = Path(__file__).parents[2]


def command(image: str, order: Order) -> list[str]:
    """The `docker run` line. The project is mounted read-only; the plan and the timing caches are written as this user."""
    profile, tuning = order.profile, order.tuning
    flags = ["--version-compatible"] if tuning.version_compatible else []
    return [
        "docker", "run", "--rm", "--gpus=all", f"--user={os.getuid()}:{os.getgid()}",
        f"--volume={_PROJECT}:/toolkit:ro", f"--volume={order.onnx.parent.resolve()}:/onnx:ro",
        f"--volume={order.plan.parent.resolve()}:/plan", f"--volume={order.cache.resolve()}:/cache",
        "--workdir=/toolkit", "--env=PYTHONDONTWRITEBYTECODE=1", "--entrypoint=python3",
        image,
        "-m", "export.tensorrt", f"/onnx/{order.onnx.name}", f"/plan/{order.plan.name}",
        f"--precision={order.precision}", f"--input={profile.input}", f"--dims={'x'.join(map(str, profile.dims))}",
        f"--max-batch={profile.max}", f"--opt-batch={profile.opt}", f"--workspace={tuning.workspace_mib}",
        f"--builder-level={tuning.level}", f"--hardware={tuning.hardware}", *flags, "--cache=/cache",
    ]  # fmt: skip


def build(image: str, order: Order, note: Callable[[str], None]) -> Plan:
    """Build a plan and its sidecar; the line that does it is noted before it runs.

    Raises:
        MissingHardware: There is no Docker here.
        BuildError: The build failed; its own words are above.
    """
    order.cache.mkdir(parents=True, exist_ok=True)
    line = command(image, order)
    note(shlex.join(line))
    if not shutil.which("docker"):
        raise MissingHardware("docker is not installed: run this on a machine that has it, and a GPU")
    result = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if result.returncode:
        lines = [text for text in result.stdout.splitlines() if text.strip()]
        reason = next((text for text in lines if text.startswith("error: ")), "; ".join(lines[-3:]))
        raise BuildError(f"the build in {image} ended with code {result.returncode}: {reason.removeprefix('error: ')}")
    return plans.read(order.plan)
