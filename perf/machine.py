"""The machine and the versions that a result was measured with."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from seresnext101_triton.perf.records import Circumstances, Machine

_PACKAGES = ("torch", "onnxruntime", "tensorrt", "tritonclient", "nvidia-pytriton", "numpy")


def this_machine() -> Machine:
    """Describe the machine that this program runs on."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        gpu=_gpu(),
        system=f"Linux {platform.release()}, glibc {platform.libc_ver()[1]}",
    )


def circumstances(command: str) -> Circumstances:
    """Describe the circumstances of a measurement that begins now.

    Args:
        command: The command that measures it again.
    """
    return Circumstances(
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        commit=_commit(),
        machine=this_machine(),
        versions={name: found for name in _PACKAGES if (found := _version(name))},
    )


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def _commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
