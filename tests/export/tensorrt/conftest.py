"""A machine with a GPU, as far as one without can be made to look like it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from seresnext101_triton.export.onnx import writer
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.served import ServedNetwork
from seresnext101_triton.export.tensorrt.plan import Profile
from seresnext101_triton.server import gpu as gpus
from seresnext101_triton.server.gpu import Gpu
from tests.conftest import QUIET, tiny_request

STANDINS = Path(__file__).parents[2] / "standins"
H100 = Gpu("NVIDIA H100 80GB HBM3", "9.0", "580.95.05", "13.3")
PROFILE = Profile("INPUT__0", (3, 64, 64), 4, 4)
_IMPORTERS = (
    "tensorrt",
    "seresnext101_triton.export.tensorrt.builder",
    "seresnext101_triton.server.runtimes.tensorrt",
    "seresnext101_triton.server.runtimes.engine",
)

# The CUDA driver's calls that `server.gpu` makes, with the answers of an H100.
_CUDA_DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDriverGetVersion(int *version) { *version = 13030; return 0; }
int cuDeviceGetName(char *name, int length, int device) \
{ strncpy(name, "NVIDIA H100 80GB HBM3", length); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) \
{ *value = attribute == 75 ? 9 : attribute == 76 ? 0 : -1; return 0; }
"""


def compile_library(source: str, path: Path) -> None:
    """A shared library from C source."""
    subprocess.run(
        ["cc", "-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-o", path, "-x", "c", "-"],
        input=source,
        text=True,
        check=True,
    )


@pytest.fixture(scope="session")
def cuda_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libcuda.so.1 that knows one H100."""
    folder = tmp_path_factory.mktemp("driver")
    compile_library(_CUDA_DRIVER, folder / "libcuda.so.1")
    return folder


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """A function that installs the stand-in, of a version and for a GPU, and returns it."""

    def forget() -> None:
        for name in _IMPORTERS:
            module, (package, _, child) = sys.modules.pop(name, None), name.rpartition(".")
            if module and package:
                delattr(sys.modules[package], child)

    def install(version: str = "11.1.0.106", gpu: str = "sm90") -> ModuleType:
        forget()
        monkeypatch.setenv("STANDIN_TENSORRT_VERSION", version)
        monkeypatch.setenv("STANDIN_TENSORRT_GPU", gpu)
        monkeypatch.syspath_prepend(str(STANDINS))
        import tensorrt

        from seresnext101_triton.server.runtimes import engine as runtime

        monkeypatch.setattr(runtime, "torch", _cpu_torch())
        return tensorrt

    yield install
    forget()


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch, tensorrt, tmp_path: Path) -> ModuleType:
    """A machine with an H100 and TensorRT; returns the stand-in."""
    monkeypatch.setattr(gpus, "find", lambda: H100)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tensorrt()


@pytest.fixture(autouse=True)
def every_network_is_written_as_onnx_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes seconds, and most tests here want the same file."""
    monkeypatch.setattr(writer, "write", _write_once)


def _write_once(network: ServedNetwork, example: torch.Tensor, max_batch: int, path: Path) -> None:
    weights = hashlib.sha256(
        b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())
    ).hexdigest()
    key = (weights, example.shape, max_batch, network.output)
    if key not in _written:
        _write(network, example, max_batch, path)
        _written[key] = path.read_bytes()
    path.write_bytes(_written[key])


_write = writer.write
_written: dict[object, bytes] = {}


@pytest.fixture(scope="session")
def half_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network as FP16 ONNX."""
    repository = tmp_path_factory.mktemp("half") / "models"
    (outcome,) = export(tiny_request(repository, formats=("onnx",), precision="fp16"), QUIET)
    return outcome.artifact


def _cpu_torch() -> SimpleNamespace:
    """What the TensorRT runtime uses of torch, with every CUDA device a CPU."""
    cuda = SimpleNamespace(
        device=lambda device: nullcontext(),
        stream=lambda stream: nullcontext(),
        Stream=lambda device: SimpleNamespace(cuda_stream=0, synchronize=lambda: None),
    )
    names = {
        name: getattr(torch, name)
        for name in ("from_numpy", "empty", "float32", "float16", "uint8", "dtype")
    }
    return SimpleNamespace(device=lambda name: torch.device("cpu"), cuda=cuda, **names)
