"""Every way to run the network on a CPU: eager, in each runtime, and served. All take turns.

It measures whether this project reaches the performance targets that it states.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.export.formats import FORMATS
from seresnext101_triton.perf.console import SILENT, Progress
from seresnext101_triton.perf.eager import EagerNetwork, photographs
from seresnext101_triton.perf.load import LoadGenerator
from seresnext101_triton.perf.options import ARCHITECTURE
from seresnext101_triton.perf.plots import plot
from seresnext101_triton.perf.raw import RawModel
from seresnext101_triton.perf.records import CpuMeasurement, CpuRecord, Load, Machine
from seresnext101_triton.perf.serving import serving
from seresnext101_triton.perf.tables import Table, interval, spread
from seresnext101_triton.perf.turns import Ratio, Turn, ratio_of, take_turns

# Every format in every precision that is worth serving on a CPU. The models are called
# NAME_VARIANT.
VARIANTS = tuple(
    format.label(precision) for format in FORMATS.values() for precision in format.cpu_precisions
)
EAGER = "eager PyTorch"
BATCHES = (1, 8)  # of everything that runs without a server; the faster one counts
_P50, _P99 = "p50", "p99"
_INT8 = "openvino_int8"
_BF16 = "openvino_bf16"
_NARROW = (_BF16, _INT8)


@dataclass(frozen=True)
class CpuOptions:
    """What is measured, and for how long.

    Attributes:
        name: The common part of the models' names.
        concurrency: The numbers of requests in flight, with one image in each request.
        rounds: The number of turns of each contestant.
        seconds: The duration of one turn.
        architecture: The architecture of the eager network.
    """

    name: str = "seresnext101"
    concurrency: Sequence[int] = (1, 2, 4, 8, 16)
    rounds: int = 4
    seconds: float = 5.0
    architecture: str = ARCHITECTURE

    @property
    def models(self) -> list[str]:
        """The names of the models."""
        return [f"{self.name}_{variant}" for variant in VARIANTS]

    @property
    def contestants(self) -> int:
        """The number of contestants."""
        raw, served = (len(VARIANTS) + 1) * len(BATCHES), len(VARIANTS) * len(self.concurrency)
        return raw + served


@dataclass(frozen=True)
class Target:
    """A ratio that this project states as a performance target.

    Attributes:
        claim: What is compared with what.
        least: The target. None if nothing is promised for the processor.
        ratio: The measured ratio.
    """

    claim: str
    least: float | None
    ratio: Ratio

    @property
    def verdict(self) -> str:
        """Whether the measured ratio reaches the target, and whether that is certain."""
        if self.least is None:
            return "not promised for this processor"
        if self.ratio.low >= self.least:
            return "kept"
        if self.ratio.high < self.least:
            return "MISSED"
        reached = "kept" if self.ratio.value >= self.least else "missed"
        return f"{reached}, within the noise"


def measure_cpu(
    repository: Path, options: CpuOptions, progress: Progress = SILENT
) -> CpuMeasurement:
    """Give every contestant its turn in every round.

    Args:
        repository: The repository with the models `options.models`.
        options: What is measured.
        progress: It is advanced after each of `options.contestants * options.rounds` turns.

    Raises:
        PerfError: A model is missing.
    """
    turns = _unserved_turns(repository, options)
    latency: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        server = stack.enter_context(serving(repository, options.models))
        generator = stack.enter_context(LoadGenerator(server.url))
        for model in options.models:
            for concurrency in options.concurrency:
                key = _key(model, concurrency)
                latency[key] = {_P50: [], _P99: []}
                load = Load(model, concurrency=concurrency)
                turns[key] = _served_turn(generator, load, options.seconds, latency[key])
        comparison = take_turns(turns, options.rounds, after_turn=progress.advance)
        memory = {model: server.memory_of(model) for model in options.models}
    return CpuMeasurement(
        name=options.name,
        concurrencies=list(options.concurrency),
        rounds=options.rounds,
        turns={key: list(values) for key, values in comparison.turns.items()},
        latency=latency,
        memory_mib=memory,
    )


def _unserved_turns(repository: Path, options: CpuOptions) -> dict[str, Turn]:
    eager = EagerNetwork(options.architecture)
    turns: dict[str, Turn] = {}
    for batch in BATCHES:
        images = photographs(Preprocessing(), batch)
        turns[_key(EAGER, batch)] = partial(eager.throughput, images, options.seconds)
        for model in options.models:
            raw = RawModel(repository, model, batch)
            turns[_raw_key(model, batch)] = partial(raw.throughput, options.seconds)
    return turns


def _served_turn(
    generator: LoadGenerator, load: Load, seconds: float, latency: dict[str, list[float]]
) -> Turn:
    def turn() -> float:
        measured = generator.measure_for(load, seconds)
        for percentile, values in latency.items():
            values.append(measured.latency[percentile])
        return measured.throughput

    return turn


@dataclass(frozen=True)
class Promises:
    """What this project promises for one kind of processor, as ratios. None is no promise.

    Attributes:
        over_torchscript: Throughput of INT8 over that of TorchScript, both served.
        over_onnx: Throughput of INT8 over that of ONNX Runtime, both served.
        latency: Latency of ONNX Runtime over that of INT8, with one request in flight.
        bfloat16: Throughput of bfloat16 over that of FP32, both in OpenVINO and served.
        over_raw: Throughput with a server, in requests of one image, over that without one.
        narrow_over_raw: The same for bfloat16 and INT8.
    """

    over_torchscript: float | None = None
    over_onnx: float | None = None
    latency: float | None = None
    bfloat16: float | None = None
    over_raw: float = 0.93
    narrow_over_raw: float = 0.93


def promises(machine: Machine) -> Promises:
    """The promises for a processor.

    Without VNNI and AMX, OpenVINO's INT8 would saturate, and this project runs it in floating
    point. Without AMX, only AMD's bfloat16 units are faster than FP32. With AMX, batches are faster
    than single images, which is what the server gets.
    """
    has_amx, has_vnni = "amx" in machine.units, "vnni" in machine.units
    is_amd = "AMD" in machine.cpu
    bfloat16 = 1.8 if has_amx or (is_amd and "bf16" in machine.units) else None
    if not (has_amx or has_vnni):
        return Promises(bfloat16=bfloat16)
    if is_amd:
        return Promises(3.7, 3.3, 2.7, bfloat16)
    return Promises(3.3, 3.1, 2.5, bfloat16, narrow_over_raw=0.7 if has_amx else 0.93)


def targets(record: CpuRecord) -> list[Target]:
    """The targets for the record's machine, with the measured ratios.

    The batch or the concurrency with the highest median throughput counts for each contestant.
    """
    models = {variant: f"{record.name}_{variant}" for variant in VARIANTS}
    served = {variant: _best_served(record, model) for variant, model in models.items()}
    first = record.concurrencies[0]
    onnx_p50, int8_p50 = (
        record.latency[_key(models[variant], first)][_P50] for variant in ("onnx", _INT8)
    )
    latency = f"ONNX Runtime's latency over INT8's, p50 at concurrency {first}"
    int8, bf16 = served[_INT8], served[_BF16]
    least = promises(record.machine)
    pairs = [
        (
            "INT8 served, throughput, over TorchScript served",
            least.over_torchscript,
            int8,
            served["torchscript"],
        ),
        (
            "INT8 served, throughput, over ONNX Runtime served",
            least.over_onnx,
            int8,
            served["onnx"],
        ),
        (latency, least.latency, onnx_p50, int8_p50),
        (
            "bfloat16 served, throughput, over OpenVINO FP32 served",
            least.bfloat16,
            bf16,
            served["openvino"],
        ),
    ]
    for variant, model in models.items():
        bar = least.narrow_over_raw if variant in _NARROW else least.over_raw
        pairs.append((f"{variant} served over raw", bar, served[variant], _best_raw(record, model)))
    return [Target(claim, bar, ratio_of(above, below)) for claim, bar, above, below in pairs]


def cpu_table(measured: CpuMeasurement) -> Table:
    """One row for each way to run the network: throughput, latency and memory."""
    levels = measured.concurrencies
    ends = (levels[0], levels[-1])
    header = [
        "",
        *(f"raw, batch {batch}" for batch in BATCHES),
        *(f"{level} at once" for level in levels),
        *(f"p50/p99 ms, {level}" for level in ends),
        "MiB",
    ]
    eager = [EAGER, *(spread(measured.turns[_key(EAGER, batch)]) for batch in BATCHES)]
    rows = [eager + [""] * (len(header) - len(eager))]
    for model, memory in measured.memory_mib.items():
        latencies = [measured.latency[_key(model, level)] for level in ends]
        rows.append(
            [
                model.removeprefix(measured.name + "_"),
                *(spread(measured.turns[_raw_key(model, batch)]) for batch in BATCHES),
                *(spread(measured.turns[_key(model, level)]) for level in levels),
                *(f"{np.median(each[_P50]):.0f}/{np.median(each[_P99]):.0f}" for each in latencies),
                f"{memory:.0f}",
            ]
        )
    return Table(header, rows)


def target_table(found: Sequence[Target]) -> Table:
    """Each target, and whether this run reaches it."""
    rows = [
        [
            target.claim,
            interval(target.ratio, 2),
            f"{target.least:g}" if target.least else "–",
            target.verdict,
        ]
        for target in found
    ]
    return Table(["ratio, 99 % interval", "", "promised", ""], rows)


def draw(measured: CpuMeasurement, folder: Path) -> Path:
    """Plot throughput against concurrency, with the raw runtime as the limit.

    Returns:
        The path of the SVG file. A PNG file is beside it.
    """
    path = folder / "cpu.svg"
    levels = measured.concurrencies
    with plot(path) as axes:
        for model in measured.memory_mib:
            turns = [measured.turns[_key(model, level)] for level in levels]
            low, middle, high = np.percentile(turns, (10, 50, 90), axis=1)
            label = model.removeprefix(measured.name + "_").replace("_", " ")
            (line,) = axes.plot(levels, middle, "o-", label=label)
            color = line.get_color()
            axes.fill_between(levels, low, high, color=color, alpha=0.15, linewidth=0)
            raw = np.median(_best_raw(measured, model))
            axes.axhline(raw, color=color, linestyle=":", linewidth=1)
        eager = np.median(_best([measured.turns[_key(EAGER, batch)] for batch in BATCHES]))
        label = "eager PyTorch, no server"
        axes.axhline(eager, color="black", linestyle="--", linewidth=1, label=label)
        axes.set_xscale("log", base=2)
        axes.set_xticks(levels, [str(level) for level in levels])
        axes.minorticks_off()
        axes.set_xlabel("requests in flight, one image each (dotted: the runtime alone)")
        axes.set(ylabel="images per second", ylim=(0, None))
        position = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
        axes.legend(frameon=False, ncols=3, fontsize=9, **position)
    return path


def _best_served(measured: CpuMeasurement, model: str) -> Sequence[float]:
    return _best([measured.turns[_key(model, level)] for level in measured.concurrencies])


def _best_raw(measured: CpuMeasurement, model: str) -> Sequence[float]:
    return _best([measured.turns[_raw_key(model, batch)] for batch in BATCHES])


def _best(candidates: Sequence[Sequence[float]]) -> Sequence[float]:
    return max(candidates, key=lambda turns: float(np.median(turns)))


def _key(contestant: str, level: int) -> str:
    return f"{contestant} {level}"


def _raw_key(model: str, batch: int) -> str:
    return _key(f"raw:{model}", batch)
