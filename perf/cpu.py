"""What a CPU is worth to this network: eager, raw in each runtime, and served at rising concurrency, all by turns in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from client.images import load_image, sample_photographs
from client.preprocessing import Preprocessing
from perf.compare import Turn, compare, ratio_of
from perf.load import Generator, Load
from perf.raw import Raw
from perf.results import Record
from perf.serving import serving

FORMS = ("torchscript", "onnx", "openvino", "openvino_bf16", "openvino_int8")
EAGER = "eager PyTorch"
BATCHES = (1, 8)  # of what runs without a server, the better of which counts
_P50, _P99 = "p50", "p99"


@dataclass(frozen=True)
class Bar:
    """A ratio that this project promises.

    Attributes:
        claim: What is held against what.
        least: The promise.
        value: The geometric mean over the rounds.
        low: Lower end of its 99 % interval.
        high: Upper end.
    """

    claim: str
    least: float
    value: float
    low: float
    high: float


def measure(
    repository: Path, name: str, concurrencies: Sequence[int], rounds: int, seconds: float, advance: Callable[[], None], eager: str
) -> Record:
    """Give every contestant its turn in every round.

    Args:
        repository: With the models `<name>_<form>` for each of `FORMS`.
        name: Theirs.
        concurrencies: Requests under way, one image in each.
        rounds: How many turns each contestant has.
        seconds: Of one turn.
        advance: Called after each.
        eager: The architecture of the eager network; a key of `export.network.ARCHITECTURES`.

    Returns:
        `turns`: by contestant and its batch or concurrency, images a second of each round; `latency`: p50 and p99 in ms of the same rounds,
        of what is served; `memory_mib` of each model's processes.

    Raises:
        PerfError: A model is missing.
    """
    models = [f"{name}_{form}" for form in FORMS]
    latency: dict[str, dict[str, list[float]]] = {}
    turns: dict[str, Turn] = {}
    with ExitStack() as stack:
        for batch in BATCHES:
            turns[_key(EAGER, batch)] = _eager(eager, batch, seconds)
            for model in models:
                turns[_key(f"raw:{model}", batch)] = _raw(Raw(repository, model, batch), seconds)
        subject = stack.enter_context(serving(repository, models))
        generator = stack.enter_context(Generator(subject.url))
        for model in models:
            for concurrency in concurrencies:
                key = _key(model, concurrency)
                latency[key] = {_P50: [], _P99: []}
                turns[key] = _served(generator, Load(model, concurrency=concurrency), seconds, latency[key])
        comparison = compare(turns, rounds, advance)
        memory = {model: subject.memory_of(model) for model in models}
    return {
        "name": name,
        "concurrencies": list(concurrencies),
        "rounds": rounds,
        "turns": {key: list(values) for key, values in comparison.turns.items()},
        "latency": latency,
        "memory_mib": memory,
    }


def bars(record: Record) -> list[Bar]:
    """The promises, as this run has them. Each contestant counts where it is best, by its median."""
    name, turns = record["name"], record["turns"]
    torchscript, onnx, fp32, bf16, int8 = (f"{name}_{form}" for form in FORMS)

    def served(model: str) -> Sequence[float]:
        return _best([turns[_key(model, level)] for level in record["concurrencies"]])

    def raw(model: str) -> Sequence[float]:
        return _best([turns[_key(f"raw:{model}", batch)] for batch in BATCHES])

    first = record["concurrencies"][0]
    wait = {model: record["latency"][_key(model, first)][_P50] for model in (onnx, int8)}
    pairs = [
        ("INT8 served, throughput, over TorchScript served", 4.0, served(int8), served(torchscript)),
        ("INT8 served, throughput, over ONNX Runtime served", 3.3, served(int8), served(onnx)),
        (f"ONNX Runtime's latency over INT8's, p50 at concurrency {first}", 2.7, wait[onnx], wait[int8]),
        ("bfloat16 served, throughput, over OpenVINO FP32 served", 1.9, served(bf16), served(fp32)),
    ]
    pairs += [(f"{form} served over raw", 0.93, served(f"{name}_{form}"), raw(f"{name}_{form}")) for form in FORMS]
    return [Bar(claim, least, **asdict(ratio_of(above, below))) for claim, least, above, below in pairs]


def table(record: Record) -> tuple[list[str], list[list[str]]]:
    """One row for each way to run the network: medians, and the 10th to the 90th percentile of the rounds."""
    header = ["", *(f"raw, batch {batch}" for batch in BATCHES), *(f"{level} at once" for level in record["concurrencies"])]
    header += [f"p50/p99 ms, {level}" for level in (record["concurrencies"][0], record["concurrencies"][-1])] + ["MiB"]
    rows = [[EAGER, *(_spread(record["turns"][_key(EAGER, batch)]) for batch in BATCHES)]]
    rows[0] += [""] * (len(header) - len(rows[0]))
    for model, memory in record["memory_mib"].items():
        ends = [record["latency"][_key(model, record["concurrencies"][end])] for end in (0, -1)]
        rows.append(
            [
                model.removeprefix(record["name"] + "_"),
                *(_spread(record["turns"][_key(f"raw:{model}", batch)]) for batch in BATCHES),
                *(_spread(record["turns"][_key(model, level)]) for level in record["concurrencies"]),
                *(f"{np.median(end[_P50]):.0f}/{np.median(end[_P99]):.0f}" for end in ends),
                f"{memory:.0f}",
            ]
        )
    return header, rows


def bar_table(found: Sequence[Bar]) -> tuple[list[str], list[list[str]]]:
    """Each promise, and whether this run keeps it."""
    rows = [[bar.claim, f"{bar.value:.2f} ({bar.low:.2f} – {bar.high:.2f})", f"{bar.least:g}", _verdict(bar)] for bar in found]
    return ["ratio, 99 % interval", "", "promised", ""], rows


def draw(record: Record, folder: Path) -> Path:
    """Throughput against concurrency, with the raw runtime as the limit; an SVG with a PNG beside it."""
    from perf.plots import picture

    path = folder / "cpu.svg"
    with picture(path) as axes:
        levels = record["concurrencies"]
        for model in record["memory_mib"]:
            turns = [record["turns"][_key(model, level)] for level in levels]
            low, middle, high = np.percentile(turns, (10, 50, 90), axis=1)
            (line,) = axes.plot(levels, middle, "o-", label=model.removeprefix(record["name"] + "_").replace("_", " "))
            axes.fill_between(levels, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
            raw = np.median(_best([record["turns"][_key(f"raw:{model}", batch)] for batch in BATCHES]))
            axes.axhline(raw, color=line.get_color(), linestyle=":", linewidth=1)
        eager = np.median(_best([record["turns"][_key(EAGER, batch)] for batch in BATCHES]))
        axes.axhline(eager, color="black", linestyle="--", linewidth=1, label="eager PyTorch, no server")
        axes.set_xscale("log", base=2)
        axes.set_xticks(levels, [str(level) for level in levels])
        axes.minorticks_off()
        axes.set(xlabel="requests at once, one image each (dotted: the runtime alone)", ylabel="images a second", ylim=(0, None))
        axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)
    return path


def _verdict(bar: Bar) -> str:
    if bar.low >= bar.least:
        return "kept"
    if bar.high < bar.least:
        return "MISSED"
    return "kept, within the noise" if bar.value >= bar.least else "missed, within the noise"


def _best(candidates: Sequence[Sequence[float]]) -> Sequence[float]:
    return max(candidates, key=lambda turns: float(np.median(turns)))


def _spread(turns: Sequence[float]) -> str:
    low, middle, high = np.percentile(turns, (10, 50, 90))
    return f"{middle:.1f} ({low:.1f} – {high:.1f})"


def _key(contestant: str, level: int) -> str:
    return f"{contestant} {level}"


def _eager(architecture: str, batch: int, seconds: float) -> Turn:
    """The network as PyTorch runs it, channels last."""
    import os

    from perf.peers import network

    os.environ[network.ARCHITECTURE_VARIABLE] = architecture
    eager = network.Eager()
    prepare = Preprocessing()
    photographs = [prepare(load_image(path)) for path in sample_photographs()]
    images = np.stack([photographs[index % len(photographs)] for index in range(batch)])

    def turn() -> float:
        eager(images)  # does not count
        count, started = 0, time.perf_counter()
        while not count or time.perf_counter() - started < seconds:
            eager(images)
            count += batch
        return count / (time.perf_counter() - started)

    return turn


def _raw(raw: Raw, seconds: float) -> Turn:
    return lambda: raw.turn(seconds)


def _served(generator: Generator, load: Load, seconds: float, latency: Mapping[str, list[float]]) -> Turn:
    def turn() -> float:
        measured: Any = generator.turn(load, seconds)
        for percentile, values in latency.items():
            values.append(measured.latency[percentile])
        return float(measured.throughput)

    return turn
