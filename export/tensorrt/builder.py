"""From ONNX to a plan through TensorRT's Python API, the same calls for 10.x and 11.x.

The network is strongly typed: every precision is the ONNX graph's own. Nothing that TensorRT 11
removed is named, and no enum's number is assumed (`STRONGLY_TYPED` is 1 in TensorRT 10 and 0 in
11).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import tensorrt as trt

from seresnext101_triton.export.errors import BuildError
from seresnext101_triton.export.tensorrt.gpu import Gpu
from seresnext101_triton.export.tensorrt.inspection import check_precision, count_layers
from seresnext101_triton.export.tensorrt.plan import HARDWARE, BuildSpec, Plan, Profile, describe

_MESSAGES_KEPT = 20


class Watcher(Protocol):
    """What is told of a build's progress; from several threads."""

    def start(self, phase: str, steps: int) -> None:
        """A phase of so many steps begins."""

    def step(self, phase: str, done: int) -> None:
        """So many steps of it are done."""

    def finish(self, phase: str) -> None:
        """It is over."""


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
    cancelled = threading.Event()
    # In a thread of its own, so that Ctrl-C reaches us: TensorRT does not return before it is done
    # or told to stop.
    with ThreadPoolExecutor(1) as pool:
        try:
            serialized = pool.submit(
                _build, spec, gpu, note, log, _Progress(watcher, cancelled)
            ).result()
        except KeyboardInterrupt:
            cancelled.set()
            raise
    layers = _inspect(serialized, spec, log)
    check_precision(layers, spec.precision)
    spec.plan.write_bytes(serialized)
    return describe(spec, gpu, layers=layers, tensorrt=trt.__version__, builder="tensorrt")


def timing_cache(folder: Path, version: str, gpu: Gpu) -> Path:
    """Where the timings of one TensorRT version on one kind of GPU are kept."""
    name = "".join(character if character.isalnum() else "-" for character in gpu.name.lower())
    return folder / f"tensorrt-{version}-{name}-sm{gpu.compute_capability.replace('.', '')}.cache"


def _build(
    spec: BuildSpec, gpu: Gpu, note: Callable[[str], None], log: _Log, progress: _Progress
) -> Any:
    """The serialized plan, as TensorRT's own buffer."""
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # pybind11's way of saying that the factory gave nothing
        raise BuildError(
            f"TensorRT {trt.__version__} cannot use this GPU: {log.errors or error}"
        ) from None
    tuning = spec.tuning
    builder.max_threads = os.cpu_count() or 1
    network = log.require(
        builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)),
        "create a network",
    )
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(spec.onnx)):
        raise BuildError(
            f"TensorRT {trt.__version__} cannot read {spec.onnx.name}: "
            f"{_parser_errors(parser) or log.errors}"
        )
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
    _add_profile(builder, network, config, spec.profile)
    cache_file = timing_cache(spec.cache, trt.__version__, gpu)
    timings = _load_timings(config, cache_file, note)  # held until the build is over
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        if progress.failure is not None:
            reason = f"{type(progress.failure).__name__}: {progress.failure}"
            raise BuildError(
                f"the build was interrupted, because its progress could not be shown: {reason}"
            ) from progress.failure
        if progress.cancelled.is_set():
            raise BuildError("the build was interrupted")
        raise BuildError(
            f"TensorRT {trt.__version__} built no plan: {log.errors or 'it does not say why'}"
        )
    del timings
    _save_timings(config, cache_file)
    return serialized


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(
        f"node {error.node_name() or '?'} ({error.node_operator() or '?'}): {error.desc()}"
        for error in errors
    )


def _add_profile(builder: Any, network: Any, config: Any, wanted: Profile) -> None:
    tensor = network.get_input(0)
    if (
        network.num_inputs != 1
        or tensor.name != wanted.input
        or tuple(tensor.shape) != (-1, *wanted.dims)
    ):
        raise BuildError(
            f"the ONNX has an input {tensor.name} of shape {list(tensor.shape)}, and not "
            f"{wanted.input} of {[-1, *wanted.dims]} only"
        )
    profile = builder.create_optimization_profile()
    profile.set_shape(wanted.input, *wanted.shapes.values())
    if config.add_optimization_profile(profile) < 0:
        raise BuildError(f"TensorRT does not take the shapes {wanted.shapes}")


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


def _inspect(serialized: Any, spec: BuildSpec, log: _Log) -> dict[str, int]:
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


class _Log(trt.ILogger):  # type: ignore[misc]
    """Keeps TensorRT's last errors for the message that a person sees.

    It must outlive every TensorRT object.
    """

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._messages: deque[str] = deque(maxlen=_MESSAGES_KEPT)

    def log(self, severity: Any, msg: str) -> None:
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self._messages.append(" ".join(msg.split()))

    @property
    def errors(self) -> str:
        """All of them in one line."""
        return "; ".join(dict.fromkeys(self._messages))

    def require(self, value: Any, what: str) -> Any:
        """The value, unless TensorRT gave None.

        Raises:
            BuildError: It did.
        """
        if value is None:
            raise BuildError(
                f"TensorRT {trt.__version__} cannot {what}: {self.errors or 'it does not say why'}"
            )
        return value


class _Progress(trt.IProgressMonitor):  # type: ignore[misc]
    """Passes TensorRT's progress on. TensorRT calls these methods from several threads.

    No exception may leave them, so the first one of a watcher is kept, and ends the build.

    Attributes:
        cancelled: Set where the build is to end.
        failure: What a watcher has raised; None where none has.
    """

    def __init__(self, watcher: Watcher, cancelled: threading.Event) -> None:
        trt.IProgressMonitor.__init__(self)
        self._watcher = watcher
        self.cancelled = cancelled
        self.failure: Exception | None = None

    def phase_start(
        self,
        phase_name: str,
        parent_phase: str | None,  # noqa: ARG002  (TensorRT passes it)
        num_steps: int,
    ) -> None:
        self._call(self._watcher.start, phase_name, num_steps)

    def phase_finish(self, phase_name: str) -> None:
        self._call(self._watcher.finish, phase_name)

    def step_complete(self, phase_name: str, step: int) -> bool:
        self._call(self._watcher.step, phase_name, step + 1)
        return not self.cancelled.is_set()

    def _call(self, method: Callable[..., None], *facts: object) -> None:
        try:
            method(*facts)
        except Exception as error:  # noqa: BLE001  (a watcher may raise anything)
            self.failure = self.failure or error
            self.cancelled.set()
