"""What a figure was measured on, and with what."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("torch", "onnxruntime", "tensorrt", "tritonclient", "nvidia-pytriton", "numpy")


@dataclass(frozen=True)
class Machine:
    """A machine, as far as figures depend on it.

    Attributes:
        cpu: The processor's name.
        cores: That this process may use.
        memory_gb: Of the machine.
        gpu: The first GPU's name, or empty.
        system: Kernel and C library.
    """

    cpu: str
    cores: int
    memory_gb: float
    gpu: str
    system: str


def machine() -> Machine:
    """This machine."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        gpu=_gpu(),
        system=f"Linux {platform.release()}, glibc {platform.libc_ver()[1]}",
    )


def circumstances(command: str) -> dict[str, Any]:
    """What every result carries: when, on what, with which versions, from which commit, by which command."""
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "commit": _commit(),
        "machine": asdict(machine()),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


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
