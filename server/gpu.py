"""The GPU of this machine: TensorRT builds for it, and models may need it.

The CUDA driver itself is asked, because it honours CUDA_VISIBLE_DEVICES as TensorRT does.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

_DRIVER = "libcuda.so.1"
_DRIVER_VERSION = Path("/proc/driver/nvidia/version")
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute of cuda.h


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: As NVIDIA calls it.
        compute_capability: As `8.9`.
        driver: Version of the kernel driver.
        cuda: The newest CUDA that driver supports.
    """

    name: str
    compute_capability: str
    driver: str
    cuda: str


def find() -> Gpu | None:
    """The first GPU that CUDA shows us, or None."""
    try:
        cuda = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    device, version, value = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), 0)
        or cuda.cuDriverGetVersion(ctypes.byref(version))
    ):
        return None
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, len(name), device)
    capability = []
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(str(value.value))
    return Gpu(
        name=name.value.decode(),
        compute_capability=".".join(capability),
        driver=_driver_version(),
        cuda=f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


def _driver_version() -> str:
    text = _DRIVER_VERSION.read_text() if _DRIVER_VERSION.exists() else ""
    found = re.search(r"\d+\.\d+(\.\d+)?", text)
    return found.group() if found else "unknown"
