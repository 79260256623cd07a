"""From ONNX to an engine of TensorRT for RTX, NVIDIA's builder that needs no GPU.

It reads ONNX with the parser of TensorRT, and its networks are strongly typed, as in our builds
with TensorRT. So it is also a gate for every graph that a TensorRT plan is built from.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seresnext101_triton.export.errors import BuildError
from seresnext101_triton.export.format import INPUT
from seresnext101_triton.export.tensorrt.listening import (
    Watcher,
    add_profile,
    failure_of,
    interruptible,
    log_class,
    progress_class,
    read_onnx,
)
from seresnext101_triton.export.tensorrt.plan import Profile

if TYPE_CHECKING:
    from seresnext101_triton.export.material import Material

MODULE = "tensorrt_rtx_bindings"
PACKAGE = "tensorrt-rtx-cu13-libs"
PRODUCT = "TensorRT for RTX"


class Silent:
    """A watcher of builds that take a second."""

    def start(self, phase: str, steps: int) -> None: ...

    def step(self, phase: str, done: int) -> None: ...

    def finish(self, phase: str) -> None: ...


def profile_of(material: Material) -> Profile:
    """The shapes that an engine of a network must take, fastest at the maximum batch."""
    dims = tuple(material.example.shape[1:])
    return Profile(INPUT, dims, material.max_batch, material.max_batch)


def is_installed() -> bool:
    """Whether the package is installed: `pip install '.[rtx]'`."""
    return find_spec(MODULE) is not None


def check(onnx: Path, profile: Profile) -> str | None:
    """Refuse a graph that NVIDIA's parser or builder refuses.

    Args:
        onnx: The graph.
        profile: The shapes that an engine must take.

    Returns:
        The version of the builder; None where it is not installed, and nothing was checked.

    Raises:
        BuildError: It refuses the graph. The message has its own words.
    """
    if not is_installed():
        return None
    build(onnx, profile)
    return str(import_module(MODULE).__version__)


def build(
    onnx: Path, profile: Profile, capabilities: Sequence[str] = (), watcher: Watcher | None = None
) -> bytes:
    """Build an engine.

    Args:
        onnx: What it is built from; its types are the engine's.
        profile: The shapes that it takes.
        capabilities: The compute capabilities that it is for, as `8.9`. Empty: NVIDIA's default,
            8.0, 8.6, 8.9, 12.0 and later ones.
        watcher: Is told of the progress.

    Raises:
        BuildError: The graph, a capability or the shapes were refused.
        KeyboardInterrupt: Ctrl-C. The build has ended.
    """
    trt = import_module(MODULE)
    log = log_class(trt, PRODUCT)()
    progress = progress_class(trt)(watcher or Silent(), threading.Event())
    return interruptible(lambda: _build(trt, onnx, profile, capabilities, log, progress), progress)


def _build(  # noqa: PLR0913
    trt: Any, onnx: Path, profile: Profile, capabilities: Sequence[str], log: Any, progress: Any
) -> bytes:
    product = f"{PRODUCT} {trt.__version__}"
    builder = trt.Builder(log)
    network, _parser = read_onnx(trt, builder, log, onnx, product)
    config = log.require(builder.create_builder_config(), "create a builder configuration")
    config.progress_monitor = progress
    config.clear_flag(trt.BuilderFlag.TF32)
    add_profile(builder, network, config, profile)
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
    for index, name in enumerate(capabilities):
        known = getattr(trt.ComputeCapability, f"SM{name.replace('.', '')}", None)
        if known is None or not config.set_compute_capability(known, index):
            raise BuildError(f"{product} builds nothing for compute capability {name}")
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise failure_of(progress, product, log.errors)
    return bytes(serialized)
