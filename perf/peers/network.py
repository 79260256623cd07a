"""The network that a peer serves: eager PyTorch, or the artifact of a published model.

An artifact runs in its runtime as the documentation of that runtime advises, without any code of
this project's server.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.images import load_image
from seresnext101_triton.perf.eager import EagerNetwork, architecture_named
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.published import PublishedModel

Run = Callable[[np.ndarray], np.ndarray]  # float32 [N, 3, crop, crop] to [N, classes]
_OF_A_MODEL = ":"  # between its repository and its name


@dataclass(frozen=True)
class Network:
    """What a peer serves.

    Attributes:
        prepare: Decodes an image file and prepares it: float32 [3, crop, crop].
        run: Answers a batch.
    """

    prepare: Callable[[bytes], np.ndarray]
    run: Run


def argument_of(repository: Path, model: str, architecture: str) -> str:
    """How a peer is told which network it serves.

    Args:
        repository: The model repository.
        model: The name of a published model; empty for the eager network.
        architecture: The architecture of the eager network.

    Raises:
        UsageError: There is no such architecture.
        PerfError: There is no such model, or no peer serves it.
    """
    if not model:
        architecture_named(architecture)
        return architecture
    published = PublishedModel.find(repository, model)
    if published.artifact.suffix not in _ARTIFACTS or published.preprocessing.takes_pixels:
        suffixes = " or ".join(_ARTIFACTS)
        raise PerfError(
            f"{model} is not served by peers: they serve {suffixes} files that take normalised "
            "values"
        )
    return f"{repository.resolve()}{_OF_A_MODEL}{model}"


def preprocessing_of(argument: str) -> Preprocessing:
    """How the images are prepared for what `argument_of` names."""
    model = _model_of(argument)
    return model.preprocessing if model else Preprocessing()


def _model_of(argument: str) -> PublishedModel | None:
    """The published model that an argument names; None for the eager network."""
    repository, is_model, model = argument.rpartition(_OF_A_MODEL)
    return PublishedModel.find(Path(repository), model) if is_model else None


def network(argument: str, *, concurrent: bool) -> Network:
    """Load what `argument_of` names.

    Args:
        argument: What `argument_of` returned.
        concurrent: Whether several threads call the network at the same time. Each call may then
            use a part of the cores only.
    """
    contract, model = preprocessing_of(argument), _model_of(argument)
    if model:
        run = _ARTIFACTS[model.artifact.suffix](str(model.artifact), concurrent)
    else:
        run = EagerNetwork(argument)
    return Network(lambda file: contract(load_image(file)), run)


def _openvino(path: str, concurrent: bool) -> Run:
    from seresnext101_triton.server.runtimes.openvino_package import core

    compiled = core().compile_model(
        path, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT" if concurrent else "LATENCY"}
    )
    threads = threading.local()  # one thread at a time may use an infer request

    def run(batch: np.ndarray) -> np.ndarray:
        if not hasattr(threads, "request"):
            threads.request = compiled.create_infer_request()
        return threads.request.infer([batch])[0]

    return run


def _onnx(path: str, concurrent: bool) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if concurrent:
        options.intra_op_num_threads = max(1, len(os.sched_getaffinity(0)) // 2)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


_ARTIFACTS: dict[str, Callable[[str, bool], Run]] = {".xml": _openvino, ".onnx": _onnx}
