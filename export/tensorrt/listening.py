"""What all builds have in common: the log, the progress, the ONNX file, the profile and Ctrl-C.

TensorRT and TensorRT for RTX have the same classes in two modules, so the module is an argument.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from seresnext101_triton.export.errors import BuildError
from seresnext101_triton.export.tensorrt.plan import Profile

_MESSAGES_KEPT = 20
_Built = TypeVar("_Built")


class Watcher(Protocol):
    """What is told of a build's progress; from several threads."""

    def start(self, phase: str, steps: int) -> None:
        """A phase of so many steps begins."""

    def step(self, phase: str, done: int) -> None:
        """So many steps of it are done."""

    def finish(self, phase: str) -> None:
        """It is over."""


def log_class(trt: Any, product: str = "TensorRT") -> Any:
    """A logger that keeps TensorRT's last errors for the message that a person sees.

    It must outlive every TensorRT object.

    Args:
        trt: The module.
        product: What messages call it.
    """

    class Log(trt.ILogger):  # type: ignore[misc]
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
                    f"{product} {trt.__version__} cannot {what}: "
                    f"{self.errors or 'it does not say why'}"
                )
            return value

    return Log


def progress_class(trt: Any) -> Any:
    """A monitor that passes TensorRT's progress on. TensorRT calls it from several threads.

    No exception may leave it, so the first one of a watcher is kept, and ends the build. Its
    attribute `cancelled` is set where the build is to end; `failure` is what a watcher has raised.

    Args:
        trt: The module.
    """

    class Progress(trt.IProgressMonitor):  # type: ignore[misc]
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

    return Progress


def interruptible(work: Callable[[], _Built], progress: Any) -> _Built:
    """Run a build in a thread of its own, so that Ctrl-C reaches this one.

    TensorRT does not return before it is done or told to stop.

    Args:
        work: The build.
        progress: Its monitor.

    Raises:
        KeyboardInterrupt: Ctrl-C. The build has ended.
    """
    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(work).result()
        except KeyboardInterrupt:
            progress.cancelled.set()
            raise


def read_onnx(trt: Any, builder: Any, log: Any, onnx: Path, product: str) -> tuple[Any, Any]:
    """Make a strongly typed network from an ONNX file.

    Args:
        trt: The module.
        builder: Its builder.
        log: Its logger, of `log_class`.
        onnx: The file.
        product: Name and version of the builder.

    Returns:
        The network, and the parser. The parser has the weights: keep it until the build is over.

    Raises:
        BuildError: The parser refuses the file. The message names the nodes.
    """
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = log.require(builder.create_network(typed), "create a network")
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        raise BuildError(f"{product} cannot read {onnx.name}: {_parser_errors(parser, log)}")
    return network, parser


def _parser_errors(parser: Any, log: Any) -> str:
    """What a parser has found, with the names of the nodes, in one line."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    found = "; ".join(
        f"node {error.node_name() or '?'} ({error.node_operator() or '?'}): {error.desc()}"
        for error in errors
    )
    return found or log.errors


def add_profile(builder: Any, network: Any, config: Any, wanted: Profile) -> None:
    """Give a build the shapes that the engine must take.

    Raises:
        BuildError: The network has another input, or TensorRT refuses the shapes.
    """
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


def failure_of(progress: Any, product: str, errors: str) -> BuildError:
    """The error of a build that has given nothing.

    Args:
        progress: The build's monitor.
        product: Name and version of the builder.
        errors: What its log has kept.
    """
    if progress.failure is not None:
        reason = f"{type(progress.failure).__name__}: {progress.failure}"
        error = BuildError(
            f"the build was interrupted, because its progress could not be shown: {reason}"
        )
        error.__cause__ = progress.failure
        return error
    if progress.cancelled.is_set():
        return BuildError("the build was interrupted")
    return BuildError(f"{product} built no plan: {errors or 'it does not say why'}")
