"""One quantisation from end to end: statistics, a method, and layers left out until it is good."""

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

from seresnext101_triton.export.errors import CalibrationError
from seresnext101_triton.export.fingerprint import source_digest
from seresnext101_triton.export.formats.openvino import OpenVino
from seresnext101_triton.export.gate import Gate
from seresnext101_triton.export.precision import INT8
from seresnext101_triton.export.quantization import AUTO, METHODS, Quantization, qdq, sensitivity
from seresnext101_triton.export.quantization.images import ADVISED, MOST, Images
from seresnext101_triton.export.quantization.statistics import Statistics, collect
from seresnext101_triton.export.quantization.thresholds import threshold
from seresnext101_triton.export.reporting import Reporter
from seresnext101_triton.export.weights.download import cache_folder
from seresnext101_triton.export.yardstick import relative_error
from seresnext101_triton.server.runtimes.openvino import OpenVino as Runtime

_TRIED = 32  # calibration images that methods are compared on
_PROBED = 4  # calibration images that the noise on layers is measured with


@dataclass(frozen=True)
class Quantized:
    """A quantised ONNX.

    Attributes:
        path: The ONNX, with Q/DQ pairs.
        facts: For the manifest: `calibration_images`, `held_out_images`, `method`, `methods` (each
            one's error on calibration images), `keep_fp32`, `int8` (how many layers are), `layers`
            (the noise that INT8 puts on each), `kernels` (how many convolutions OpenVINO runs in
            which type, those of the Squeeze-and-Excitations included).
    """

    path: Path
    facts: dict[str, Any]


def identity(options: Quantization, images: Images) -> dict[str, Any]:
    """What tells one quantisation of a network from another, apart from this project's code."""
    facts = {"images": images.digest(), "classes": images.classes_digest()}
    return facts | {name: str(value) for name, value in asdict(options).items()}


class Quantizer:
    """Quantises one network.

    Args:
        options: How.
        images: What it is calibrated with.
        gate: Over the images that were held out of the calibration.
        scratch: A folder for the result and for what is tried on the way.
        reporter: What is told of the progress.
    """

    def __init__(
        self,
        options: Quantization,
        images: Images,
        gate: Gate,
        scratch: Path,
        reporter: Reporter,
    ) -> None:
        self._options, self._images, self._gate = options, images, gate
        self._scratch, self._reporter = scratch, reporter

    def quantize(self, source: Path, network: str) -> Quantized:
        """Quantise an ONNX.

        Args:
            source: The FP32 ONNX.
            network: A text that is the same exactly for the same network; statistics are cached
                under it.

        Raises:
            CalibrationError: An image cannot be read, or a layer that is to be kept does not exist.
        """
        graph = qdq.Graph(onnx.load(source))
        automatic = self._options.keep_fp32 == (AUTO,)
        kept = () if automatic else self._options.keep_fp32
        if unknown := sorted(set(kept) - graph.layers.keys()):
            known = ", ".join(islice(graph.layers, 4))
            raise CalibrationError(
                f"`keep_fp32` names {', '.join(unknown)}; layers are called {known} and so on"
            )
        calibration, held_out = self._images.calibration, self._images.held_out
        if (count := len(calibration) + len(held_out)) < ADVISED:
            self._reporter.note(
                f"  {count} images are few to calibrate with: {ADVISED} to {MOST}, like those that "
                "will be served, give better ranges"
            )
        statistics = self._statistics(graph, network)
        method, errors, thresholds = self._choose(graph, statistics, kept)
        path = self._scratch / "quantized.onnx"
        with self._reporter.step(f"quantising with {method}"):
            qdq.write(graph, thresholds, kept, path)
            probes = self._images.prepared(calibration[_spread(len(calibration), _PROBED)])
            layers = sensitivity.noise(graph, onnx.load(path), probes)
        if automatic:
            kept = self._leave_out_worst(graph, thresholds, list(layers), path)
        return Quantized(
            path,
            {
                "calibration_images": len(calibration),
                "held_out_images": len(held_out),
                "method": method,
                "methods": errors,
                "keep_fp32": list(kept),
                "int8": len(graph.layers) - len(kept),
                "layers": layers,
                "kernels": _load(path).kernels("Convolution"),
            },
        )

    def _statistics(self, graph: qdq.Graph, network: str) -> Statistics:
        """From the cache, where the same images have gone through the same network before."""
        images, reporter = self._images, self._reporter
        code = source_digest("seresnext101_triton.export.quantization.statistics")
        facts = f"{code} {network} {images.digest()} {sorted(graph.tensors)}"
        digest = hashlib.sha256(facts.encode()).hexdigest()
        cached = cache_folder().parent / "calibration" / f"{digest[:32]}.npz"
        count = len(images.calibration)
        if known := Statistics.load(cached, graph.tensors):
            reporter.note(f"  statistics of {count} images: as measured before, in {cached}")
            return known
        started = time.monotonic()
        with reporter.phases() as phases:
            label = "calibrating"
            phases.start(label, count)
            done = iter(range(1, count + 1))
            prepared = images.prepared(images.calibration)
            statistics = collect(
                graph.model, graph.tensors, prepared, lambda: phases.step(label, next(done))
            )
            phases.finish(label)
        reporter.note(f"  calibrating on {count} images ({time.monotonic() - started:.1f} s)")
        try:
            statistics.save(cached)
        except OSError as error:  # the next export measures them again
            reporter.note(f"  statistics could not be kept in {cached}: {error.strerror}")
        return statistics

    def _choose(
        self, graph: qdq.Graph, statistics: Statistics, kept: Collection[str]
    ) -> tuple[str, dict[str, float], Mapping[str, float]]:
        """The method whose network answers nearest to FP32's on calibration images.

        Images that were held out have no part in the choice.

        Returns:
            The method, the error of every method that was tried, and the thresholds of the chosen.
        """
        method = self._options.method
        candidates = {
            each: {name: threshold(statistics.histograms[name], each) for name in graph.tensors}
            for each in (METHODS if method == AUTO else (method,))
        }
        if len(candidates) == 1:
            return method, {}, candidates[method]
        tried = _spread(len(self._images.calibration), _TRIED)
        expected = self._gate.scores(statistics.answers[tried])
        errors = {}
        for each, thresholds in candidates.items():
            with self._reporter.step(f"trying {each}"):
                path = self._scratch / f"{each}.onnx"
                qdq.write(graph, thresholds, kept, path)
                runtime = _load(path)
                images = self._images.prepared(self._images.calibration[tried])
                answers = np.concatenate([runtime.run(image[None]) for image in images])
                errors[each] = float(relative_error(self._gate.scores(answers), expected).mean())
                path.unlink()
        best = min(errors, key=lambda each: errors[each])
        return best, errors, candidates[best]

    def _leave_out_worst(
        self, graph: qdq.Graph, thresholds: Mapping[str, float], layers: list[str], path: Path
    ) -> tuple[str, ...]:
        """Leave ever more of the worst layers in FP32 until the gate accepts the network.

        Args:
            graph: The FP32 graph.
            thresholds: For each of its tensors.
            layers: The worst first.
            path: Where the network is written.

        Returns:
            The layers that were left in FP32, whether the gate accepted it in the end or not.
        """
        kept: tuple[str, ...] = ()
        for kept in _worst_layers(layers):
            qdq.write(graph, thresholds, kept, path)
            parity = self._gate.measure(_load(path), INT8)
            self._reporter.note(
                f"  {len(kept)} layers kept in FP32: top-1 agrees for {parity.top1:.1%} of the "
                "images held out"
            )
            if not parity.failures:
                break
        return kept


def _spread(count: int, wanted: int) -> slice:
    """About so many of a list, from all over it: images come sorted, often by class."""
    return slice(0, None, max(1, count // wanted))


def _worst_layers(layers: list[str]) -> Iterator[tuple[str, ...]]:
    """No layer, then the worst one, the worst two, four and so on to all but one."""
    yield ()
    count = 1
    while count < len(layers):
        yield tuple(layers[:count])
        count *= 2


def _load(path: Path) -> Runtime:
    """A quantised graph in the runtime that runs it in integers."""
    return OpenVino().load(path, INT8)
