"""From ONNX to a plan through TensorRT's Python API, the same calls for 10.x and 11.x.

The network is strongly typed: every precision is the ONNX graph's own. Nothing that TensorRT 11
removed is named, and no enum's number is assumed (`STRONGLY_TYPED` is 1 in TensorRT 10 and 0 in
11).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorrt as trt

from seresnext101_triton.export.errors import BuildError
from seresnext101_triton.export.tensorrt.inspection import check_precision, count_layers
from seresnext101_triton.export.tensorrt.listening import (
    Watcher,
    add_profile,
    failure_of,
    interruptible,
    log_class,
    progress_class,
    read_onnx,
)
from seresnext101_triton.export.tensorrt.plan import HARDWARE, BuildSpec, Plan, describe
from seresnext101_triton.server.gpu import Gpu

_Log, _Progress = log_class(trt), progress_class(trt)


def build(spec: BuildSpec, gpu: Gpu, watcher: Watcher, note: Callable[[str], None]) -> Plan:
    """Build a plan and its sidecar.

    Args:
        spec: What to build.
        gpu: The GPU it is built on.
        watcher: Is told of the progress.
        note: Is called with one line that a person should see.

    Raises:
        BuildError: TensorRT refused something; the message has its own words. No plan is left.
    """
    log = _Log()
    progress = _Progress(watcher, threading.Event())
    serialized = interruptible(lambda: _build(spec, gpu, note, log, progress), progress)
    layers = _inspect(serialized, spec, log)
    check_precision(layers, spec.precision)
    spec.plan.write_bytes(serialized)
    return describe(spec, gpu, layers=layers, tensorrt=trt.__version__, builder="tensorrt")


def timing_cache(folder: Path, version: str, gpu: Gpu) -> Path:
    """Where the timings of one TensorRT version on one kind of GPU are kept."""
    name = "".join(character if character.isalnum() else "-" for character in gpu.name.lower())
    return folder / f"tensorrt-{version}-{name}-sm{gpu.compute_capability.replace('.', '')}.cache"


def _build(spec: BuildSpec, gpu: Gpu, note: Callable[[str], None], log: Any, progress: Any) -> Any:
    """The serialized plan, as TensorRT's own buffer."""
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # pybind11's way of saying that the factory gave nothing
        raise BuildError(
            f"TensorRT {trt.__version__} cannot use this GPU: {log.errors or error}"
        ) from None
    tuning = spec.tuning
    builder.max_threads = os.cpu_count() or 1
    network, _parser = read_onnx(trt, builder, log, spec.onnx, f"TensorRT {trt.__version__}")
    config = log.require(builder.create_builder_config(), "create a builder configuration")
    if tuning.workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, tuning.workspace_mib << 20)
    config.builder_optimization_level = tuning.level
    # Without details the inspector cannot tell the layers' types.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = progress
    config.clear_flag(trt.BuilderFlag.TF32)  # what is FP32 in the graph is FP32 in the plan
    if tuning.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    config.hardware_compatibility_level = getattr(
        trt.HardwareCompatibilityLevel, HARDWARE[tuning.hardware]
    )
    add_profile(builder, network, config, spec.profile)
    cache_file = timing_cache(spec.cache, trt.__version__, gpu)
    timings = _load_timings(config, cache_file, note)  # held until the build is over
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise failure_of(progress, f"TensorRT {trt.__version__}", log.errors)
    del timings
    _save_timings(config, cache_file)
    return serialized


def _load_timings(config: Any, file: Path, note: Callable[[str], None]) -> Any:
    """Give the builder the timings of earlier builds.

    Timings of another GPU or another version are not used.
    """
    known = file.read_bytes() if file.exists() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        note(f"the timing cache {file} is not of this GPU and this TensorRT: it is made anew")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _save_timings(config: Any, file: Path) -> None:
    cache = config.get_timing_cache()
    content = cache.serialize() if cache is not None else None
    if content is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(file)


def _inspect(serialized: Any, spec: BuildSpec, log: Any) -> dict[str, int]:
    """Load the plan as a server will, and look at its shapes and its layers."""
    runtime = trt.Runtime(log)
    # The code in a version-compatible plan is our own, built a moment ago.
    runtime.engine_host_code_allowed = spec.tuning.version_compatible
    engine = log.require(runtime.deserialize_cuda_engine(serialized), "load the plan it has built")
    profile = spec.profile
    found = [tuple(shape) for shape in engine.get_tensor_profile_shape(profile.input, 0)]
    if found != list(profile.shapes.values()):
        raise BuildError(f"the plan takes the shapes {found}, not {list(profile.shapes.values())}")
    inspector = log.require(engine.create_engine_inspector(), "inspect the plan")
    return count_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
