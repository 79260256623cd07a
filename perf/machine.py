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

_UNITS = {
    "vnni": {"avx512_vnni", "avx_vnni"},
    "bf16": {"avx512_bf16"},
    "amx": {"amx_int8", "amx_bf16"},
}
_PACKAGES = ("torch", "onnxruntime", "tensorrt", "tritonclient", "nvidia-pytriton", "numpy")


def this_machine() -> Machine:
    """Describe the machine that this program runs on."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        gpu=_gpu(),
        units=units(_cpuinfo("flags")),
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
    return _cpuinfo("model name") or platform.machine()


def units(flags: str) -> list[str]:
    """The units for INT8 and bfloat16 that are among the flags of /proc/cpuinfo."""
    found = set(flags.split())
    return [name for name, signs in _UNITS.items() if found & signs]


def _cpuinfo(key: str) -> str:
    """The value of the first processor; empty if the kernel does not tell it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")


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
