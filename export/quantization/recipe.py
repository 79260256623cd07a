"""One quantisation from end to end: statistics, a method, and layers left out until the guard is content."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export import config
from export.errors import CalibrationError
from export.formats import FORMATS
from export.parity import Gate, relative_error
from export.quantization import AUTO, METHODS, Quantization, qdq, sensitivity
from export.quantization.images import ADVISED, MOST, Images
from export.quantization.statistics import VERSION, Statistics, collect
from export.quantization.thresholds import threshold
from export.reporting import Reporter
from export.weights.download import cache_folder
from server import runtimes
from server.runtimes.openvino import OpenVino

_TRIED = 32  # calibration images that methods are compared on
_PROBED = 4  # that layers are


@dataclass(frozen=True)
class Quantized:
    """What came of it.

    Attributes:
        path: The Q/DQ ONNX.
        facts: For the manifest: `calibration_images`, `held_out_images`, `method`, `methods` (each one's error on calibration images),
            `keep_fp32`, `int8` (how many layers are), `layers` (the noise that it puts on each), `kernels` (how many convolutions OpenVINO
            runs in which type, SE blocks included).
    """

    path: Path
    facts: dict[str, Any]


def identity(options: Quantization, images: Images) -> dict[str, Any]:
    """What tells one quantisation of a network from another."""
    facts = {"version": VERSION, "images": images.digest(), "classes": images.classes_digest()}
    return facts | {name: str(value) for name, value in asdict(options).items()}


def quantize(source: Path, weights: str, options: Quantization, images: Images, gate: Gate, scratch: Path, reporter: Reporter) -> Quantized:
    """Quantise an ONNX.

    Args:
        source: The FP32 ONNX.
        weights: What tells the network from others; statistics are cached under it.
        options: How.
        images: With what.
        gate: Over the images that were held out.
        scratch: Where the result goes.
        reporter: What is told of the progress.

    Raises:
        CalibrationError: An image cannot be read, or a layer that is to be kept does not exist.
    """
    graph = qdq.Graph(onnx.load(source))
    automatic = options.keep_fp32 == (AUTO,)
    kept = () if automatic else options.keep_fp32
    if unknown := sorted(set(kept) - graph.layers.keys()):
        raise CalibrationError(f"--keep-fp32 names {', '.join(unknown)}; layers are called {', '.join(islice(graph.layers, 4))} and so on")
    if (count := len(images.calibration) + len(images.held_out)) < ADVISED:
        reporter.note(
            f"  {count} images are few to calibrate with: {ADVISED} to {MOST}, like those that will be served, give better ranges"
        )
    statistics = _statistics(graph, source, weights, images, reporter)
    method, errors, thresholds = _choose(graph, statistics, options, kept, images, gate, scratch, reporter)
    path = scratch / "int8.onnx"
    with reporter.step(f"quantising with {method}"):
        qdq.write(graph, thresholds, kept, path)
        layers = sensitivity.noise(graph, onnx.load(path), images.prepared(images.calibration[_spread(len(images.calibration), _PROBED)]))
    for kept in _worse_and_worse(layers) if automatic else ():
        qdq.write(graph, thresholds, kept, path)
        parity = gate.measure(_load(path), "int8")
        reporter.note(f"  {len(kept)} layers kept in FP32: top-1 agrees for {parity.top1:.1%} of the images held out")
        if not parity.failures:
            break
    return Quantized(
        path,
        {
            "calibration_images": len(images.calibration),
            "held_out_images": len(images.held_out),
            "method": method,
            "methods": errors,
            "keep_fp32": list(kept),
            "int8": len(graph.layers) - len(kept),
            "layers": layers,
            "kernels": _load(path).kernels("Convolution"),
        },
    )


def _statistics(graph: qdq.Graph, source: Path, weights: str, images: Images, reporter: Reporter) -> Statistics:
    """From the cache, where the same images have gone through the same network before."""
    digest = hashlib.sha256(f"{VERSION} {weights} {images.digest()} {sorted(graph.tensors)}".encode()).hexdigest()
    cached = cache_folder().parent / "calibration" / f"{digest[:32]}.npz"
    if known := Statistics.load(cached, graph.tensors):
        reporter.note(f"  statistics of {len(images.calibration)} images: as measured before, in {cached}")
        return known
    started = time.monotonic()
    with reporter.phases() as phases:
        label = "calibrating"
        phases.start(label, len(images.calibration))
        done = iter(range(1, len(images.calibration) + 1))
        prepared = images.prepared(images.calibration)
        statistics = collect(graph.model, graph.tensors, prepared, lambda: phases.step(label, next(done)))
        phases.finish(label)
    reporter.note(f"  calibrating on {len(images.calibration)} images ({time.monotonic() - started:.1f} s)")
    try:
        statistics.save(cached)
    except OSError as error:  # the next export measures them again
        reporter.note(f"  statistics could not be kept in {cached}: {error.strerror}")
    return statistics


def _choose(
    graph: qdq.Graph,
    statistics: Statistics,
    options: Quantization,
    kept: Collection[str],
    images: Images,
    gate: Gate,
    scratch: Path,
    reporter: Reporter,
) -> tuple[str, dict[str, float], Mapping[str, float]]:
    """The method whose quantised network answers nearest to FP32's on calibration images, every tried one's error, and its thresholds.

    Images that were held out have no say in it.
    """
    methods = METHODS if options.method == AUTO else (options.method,)
    candidates = {method: {name: threshold(statistics.histograms[name], method) for name in graph.tensors} for method in methods}
    if len(candidates) == 1:
        return options.method, {}, candidates[options.method]
    errors = {}
    for method, thresholds in candidates.items():
        with reporter.step(f"trying {method}"):
            path = scratch / f"{method}.onnx"
            qdq.write(graph, thresholds, kept, path)
            runtime = _load(path)
            tried = _spread(len(images.calibration), _TRIED)
            answers = np.concatenate([runtime.run(image[None]) for image in images.prepared(images.calibration[tried])])
            expected = statistics.answers[tried]
            errors[method] = float(relative_error(gate.scores(answers), gate.scores(expected)).mean())
            path.unlink()
    best = min(errors, key=lambda method: errors[method])
    return best, errors, candidates[best]


def _spread(count: int, wanted: int) -> slice:
    """About so many of a list, from all over it: images come sorted, often by class."""
    return slice(0, None, max(1, count // wanted))


def _worse_and_worse(layers: Mapping[str, float]) -> Iterator[tuple[str, ...]]:
    """None, then the worst layer, the worst two, four and so on to all but one."""
    names = list(layers)
    yield ()
    count = 1
    while count < len(names):
        yield tuple(names[:count])
        count *= 2


def _load(path: Path) -> OpenVino:
    """A quantised graph in the runtime that runs it in integers."""
    runtime = runtimes.load("openvino", path, config.cpu_parameters(FORMATS["openvino"], "int8"), "cpu")
    assert isinstance(runtime, OpenVino)
    return runtime
