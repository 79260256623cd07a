"""Where the time of an OpenVINO network goes: its layers by kind, with their multiply-adds.

OpenVINO measures each layer. The multiply-adds of a layer come from the shapes of the network. The
fastest kind of layer with many multiply-adds shows which rate the kernels of this processor reach.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seresnext101_triton.perf.eager import photographs
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.published import PublishedModel
from seresnext101_triton.server.runtimes.openvino import OpenVino
from seresnext101_triton.server.runtimes.openvino_package import core

# The types of layers with multiply-adds, as OpenVINO runs them.
_COUNTED = ("Convolution", "FullyConnected", "MatMul")
# The kinds that the layers without multiply-adds are called, by OpenVINO's types.
_OTHERS = {
    "Subgraph": "scaling by the squeeze, sums",
    "Eltwise": "scaling by the squeeze, sums",
    "Reduce": "mean of each channel",
    "ReduceMean": "mean of each channel",
    "Pooling": "largest value pooling",
    "Reorder": "changes of layout or type",
}


@dataclass(frozen=True)
class LayerKind:
    """All layers of one kind.

    Attributes:
        kind: The kind.
        types: The types in which they are computed, for example `int8`.
        count: How many layers there are.
        macs: Their multiply-adds for one image; 0 for layers that have none.
        ms: Their time for one image, in milliseconds.
    """

    kind: str
    types: list[str]
    count: int
    macs: int
    ms: float

    @property
    def rate(self) -> float:
        """10^9 multiply-adds per second."""
        return self.macs / self.ms / 1e6 if self.ms else 0.0


@dataclass(frozen=True)
class Profile:
    """The layers of a network.

    Attributes:
        model: The name of the model.
        batch: The number of images in one run.
        threads: The number of threads.
        run_ms: The mean time of a run for one image, in milliseconds, without the measuring of
            layers.
        kinds: The kinds of layers, those with the most time first.
    """

    model: str
    batch: int
    threads: int
    run_ms: float
    kinds: list[LayerKind]

    @property
    def limit_ms(self) -> float:
        """The time for one image if all multiply-adds ran as fast as those of the fastest kind."""
        macs = sum(kind.macs for kind in self.kinds)
        return macs / max(kind.rate for kind in self.kinds) / 1e6


def profile(repository: Path, model: str, batch: int, seconds: float) -> Profile:
    """Run a model with all cores, once as it is and once with OpenVINO's clocks.

    Args:
        repository: The model repository.
        model: The name of a model that this toolkit published there as OpenVINO.
        batch: The number of images in one run.
        seconds: The duration of each of the two measurements.

    Raises:
        PerfError: There is no such model, or it is of another format.
        ArtifactError: The artifact cannot run on this machine.
    """
    published = PublishedModel.find(repository, model)
    if published.format.runtime != "openvino":
        raise PerfError(
            f"{model} is of the format {published.manifest.format}, and only OpenVINO measures its "
            "layers: name a model of the format openvino"
        )
    images = photographs(published.preprocessing, batch)
    plain = OpenVino(published.artifact, published.parameters, "cpu")
    run_ms = _mean_ms(lambda: plain.run(images), seconds) / batch
    clocked = OpenVino(published.artifact, published.parameters, "cpu", has_clocks=True)
    _mean_ms(lambda: clocked.run(images), seconds)
    graph = core().read_model(str(published.artifact))
    graph.reshape({0: list(images.shape)})
    kinds = _kinds(clocked.layers(), _macs(graph), batch)
    return Profile(model, batch, clocked.threads, run_ms, kinds)


def _mean_ms(run: Any, seconds: float) -> float:
    run()
    count, started = 0, time.perf_counter()
    while not count or time.perf_counter() - started < seconds:
        run()
        count += 1
    return 1000 * (time.perf_counter() - started) / count


def _macs(graph: Any) -> dict[str, tuple[str, int]]:
    """The kind and the multiply-adds of each layer that has any, by its name."""
    found = {}
    for layer in graph.get_ops():
        kind = layer.get_type_name()
        if kind not in ("Convolution", "GroupConvolution", "MatMul"):
            continue
        output = list(layer.output(0).shape)
        weights = list(layer.input_value(1).shape)
        name = _base(layer.get_friendly_name())
        elements = int(np.prod(output))
        if kind == "MatMul":
            found[name] = "classifier", elements * list(layer.input_value(0).shape)[-1]
            continue
        *_, inputs, height, width = weights
        if kind == "GroupConvolution":
            what = f"grouped convolutions {height}x{width}"
        elif output[2:] == [1, 1]:
            what = "squeeze and excitation"
        else:
            what = f"convolutions {height}x{width}"
        found[name] = what, elements * inputs * height * width
    return found


def _base(name: str) -> str:
    """The name of a layer without what OpenVINO appends where it takes a layer apart."""
    return name.partition("/")[0]


def _kinds(
    layers: list[tuple[str, str, str, float]], macs: dict[str, tuple[str, int]], batch: int
) -> list[LayerKind]:
    counts: dict[str, int] = defaultdict(int)
    types: dict[str, set[str]] = defaultdict(set)
    sums: dict[str, int] = defaultdict(int)
    times: dict[str, float] = defaultdict(float)
    for layer, originals, primitive, ms in layers:
        if not ms:
            continue
        kind, count = _OTHERS.get(layer, "others"), 0
        if layer in _COUNTED:
            names = (_base(name) for name in originals.split(","))
            kind, count = next((macs[name] for name in names if name in macs), (kind, count))
        counts[kind] += 1
        types[kind].add(primitive.rsplit("_", 1)[-1].lower().replace("i8", "int8"))
        sums[kind] += count
        times[kind] += ms
    found = [
        LayerKind(kind, sorted(types[kind]), counts[kind], sums[kind] // batch, ms / batch)
        for kind, ms in times.items()
    ]
    return sorted(found, key=lambda each: -each.ms)
