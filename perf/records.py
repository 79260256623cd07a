"""The values that perf measures and stores, as frozen dataclasses.

A record is a stored result. It has a kind, the circumstances of its measurement, and the measured
values. `seresnext101_triton.perf.results` writes records to a file and reads them back. A new kind
of record is one class here, in the union `Record`, and one function in
`seresnext101_triton.perf.reporting`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, get_args

from seresnext101_triton.perf.errors import UsageError
from seresnext101_triton.perf.options import MOST_AT_ONCE, MOST_RATE
from seresnext101_triton.perf.settings import AdviceOutcome, TuningOutcome
from seresnext101_triton.perf.turns import Ratio

SCHEMA = 1
PERCENTILES = ("p50", "p90", "p95", "p99")


@dataclass(frozen=True)
class Machine:
    """The properties of a machine that measured values depend on.

    Attributes:
        cpu: The name of the processor.
        cores: The number of cores that this process may use.
        memory_gb: The memory of the machine, in GiB.
        gpu: The name of the first GPU. It is empty if there is none.
        system: The versions of the kernel and of the C library.
        units: What the processor has of `vnni`, `bf16` and `amx`, the units that compute INT8 and
            bfloat16. It is empty in records of older versions, which still are of the same machine.
    """

    cpu: str
    cores: int
    memory_gb: float
    gpu: str
    system: str
    units: list[str] = field(default_factory=list, compare=False)


def check_batch(batch: int) -> None:
    """Refuse a batch that would fill the memory.

    Raises:
        UsageError: It has too many images.
    """
    if batch > MOST_AT_ONCE:
        raise UsageError(f"a batch must have at most {MOST_AT_ONCE} images, not {batch}")


@dataclass(frozen=True)
class Load:
    """The requests that a server must answer.

    Attributes:
        model: The name of the served model.
        batch: The number of images in one request.
        concurrency: The number of requests in flight; 0 if `rate` is set.
        rate: Requests per second, sent at random times (as a Poisson process), whether or not
            earlier ones were answered; 0 if `concurrency` is set.
        protocol: `grpc` or `http`.
        shared_memory: Whether tensors travel through system shared memory.

    Raises:
        UsageError: perf_analyzer would fill the memory: it keeps every request in flight, and it
            draws the times of all requests before it sends the first one.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    model: str
    batch: int = 1
    concurrency: int = 1
    rate: float = 0.0
    protocol: str = "grpc"
    shared_memory: bool = False

    def __post_init__(self) -> None:
        check_batch(self.batch)
        if self.concurrency > MOST_AT_ONCE:
            raise UsageError(f"`concurrency` must be at most {MOST_AT_ONCE}")
        if self.rate > MOST_RATE:
            raise UsageError(f"`rates` must be at most {MOST_RATE} requests per second")

    def __str__(self) -> str:
        level = f"{self.rate:g} requests/s" if self.rate else f"concurrency {self.concurrency}"
        memory = ", shared memory" if self.shared_memory else ""
        return f"{self.model}, batch {self.batch}, {level}, {self.protocol}{memory}"

    @property
    def level(self) -> float:
        """The concurrency, or the requests per second."""
        return float(self.rate or self.concurrency)

    @property
    def series(self) -> str:
        """The name of all loads that differ in their level only, as tables and plots show it.

        The level of a load is a concurrency or a rate, never both in one series.
        """
        rate = ", by rate" if self.rate else ""
        batch = f", batch {self.batch}" if self.batch > 1 else ""
        protocol = ", HTTP" if self.protocol == "http" else ""
        memory = ", shared memory" if self.shared_memory else ""
        return f"{self.model}{batch}{protocol}{memory}{rate}"


@dataclass(frozen=True)
class Measurement:
    """What perf_analyzer measured under one load. Times are in milliseconds.

    Attributes:
        throughput: Images per second.
        latency: The time of a request as the client sees it: its percentiles p50, p90, p95, p99.
        phases: The mean time that a request spends in each phase.
        stable: Whether three windows in a row agreed. If not, the values are the means of three
            windows that did not agree.
        generator_cpu: The share of all cores that perf_analyzer used, from 0 to 1.
        harness_cpu: The share of all cores that this program used, from 0 to 1.
    """

    throughput: float
    latency: dict[str, float]
    phases: dict[str, float]
    stable: bool
    generator_cpu: float
    harness_cpu: float


@dataclass(frozen=True)
class ModelDescription:
    """A model as its server describes it.

    Attributes:
        platform: The platform or the backend in its config.
        weights: `seeded` or `trained`.
        config: Its config.pbtxt in one line, as the server completed it.
    """

    name: str
    version: str
    platform: str
    weights: str
    config: str


@dataclass(frozen=True)
class ServerUsage:
    """What a server needed for a measurement.

    Attributes:
        mean_batch: The mean number of images that one run of the model computed. None if it
            did not run.
        cores: The mean number of cores in use. None for a server that perf did not start.
        memory_mib: The memory in use at the end, in MiB. None for a server that perf did not start.
        cached: The share of requests that were answered from the response cache, 0 to 1. None if
            none was answered, and in records of older versions.
    """

    mean_batch: float | None
    cores: float | None
    memory_mib: float | None
    cached: float | None = None


@dataclass(frozen=True)
class CpuMeasurement:
    """The measured values of every way to run the network on a CPU.

    Attributes:
        name: The common part of the models' names.
        concurrencies: The numbers of requests in flight, with one image in each request.
        rounds: The number of turns of each contestant.
        turns: Images per second of each round, by contestant and its batch or concurrency.
        latency: The percentiles p50 and p99 of each round in ms, for each served contestant.
        memory_mib: The memory of each model's processes, in MiB.
    """

    name: str
    concurrencies: list[int]
    rounds: int
    turns: dict[str, list[float]]
    latency: dict[str, dict[str, list[float]]]
    memory_mib: dict[str, float]


@dataclass(frozen=True)
class PrecisionThroughput:
    """The throughput of one precision of the network at one batch size.

    Attributes:
        images_per_second: The values of all turns.
    """

    name: str
    batch: int
    images_per_second: list[float]


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """When, where, with which versions and by which command a result was measured.

    Attributes:
        measured: The time in UTC, as ISO 8601.
        command: The command that measures it again.
        commit: The commit of this project. It is empty outside a checkout.
        versions: The versions of the packages that the values depend on.
    """

    kind: ClassVar[str]
    title: ClassVar[str]  # of the kind, in messages
    measured: str
    command: str
    commit: str
    machine: Machine
    versions: dict[str, str]

    def document(self) -> dict[str, Any]:
        """The record as it is stored: values that JSON has, with the schema and the kind."""
        return {"schema": SCHEMA, "kind": self.kind, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Point(Measurement, Circumstances):
    """One load on one served model, by `perf sweep`.

    Raises:
        ValueError: The throughput or a percentile of the latency is not a positive number.
    """

    kind: ClassVar[str] = "point"
    title: ClassVar[str] = "measured point"
    model: ModelDescription
    load: Load
    server: ServerUsage

    def __post_init__(self) -> None:
        if not 0 < self.throughput < math.inf:
            raise ValueError(f"a throughput of {self.throughput:g}")
        for name in PERCENTILES:
            if not 0 < self.latency.get(name, 0.0) < math.inf:
                raise ValueError(f"a latency {name} of {self.latency.get(name, 0.0):g} ms")


@dataclass(frozen=True, kw_only=True)
class ComparisonRecord(Circumstances):
    """Contestants that took turns, by `perf compare`.

    Attributes:
        rounds: The number of turns of each contestant.
        turns: The measured values of each round, by contestant.
        batch: The number of images in one request.
        concurrency: The number of requests in flight.
        measure: What was measured: `throughput` in images per second, or `p99`, the 99th percentile
            of the latency in milliseconds.
        ratios: The ratio of every other contestant to the first.
    """

    kind: ClassVar[str] = "comparison"
    title: ClassVar[str] = "comparison"
    rounds: int
    turns: dict[str, list[float]]
    batch: int
    concurrency: int
    measure: str = "throughput"
    ratios: dict[str, Ratio]

    @property
    def unit(self) -> str:
        """What was measured, with its unit."""
        return "p99 ms" if self.measure == "p99" else "images/s"


@dataclass(frozen=True, kw_only=True)
class TuningRecord(TuningOutcome, Circumstances):
    """A search for the best configuration of a model, by `perf tune`.

    Attributes:
        p99_ms: The bound on the latency, in milliseconds. None if there was none.
    """

    kind: ClassVar[str] = "tuning"
    title: ClassVar[str] = "tuning"
    model: ModelDescription
    load: Load
    p99_ms: float | None


@dataclass(frozen=True, kw_only=True)
class AdviceRecord(AdviceOutcome, Circumstances):
    """Which model with which setting is the best on a machine, by `perf advise`.

    Attributes:
        concurrency: The number of requests in flight, with one image in each.
        p99_ms: The bound on the latency, in milliseconds. None if there was none.
        max_loss: The largest loss of accuracy, as a share.
        refused: A line for each model that did not take part, with the reason.
    """

    kind: ClassVar[str] = "advice"
    title: ClassVar[str] = "advice"
    concurrency: int
    p99_ms: float | None
    max_loss: float
    refused: list[str]


@dataclass(frozen=True, kw_only=True)
class CpuRecord(CpuMeasurement, Circumstances):
    """Every way to run the network on a CPU, by `perf cpu`."""

    kind: ClassVar[str] = "cpu"
    title: ClassVar[str] = "comparison on a CPU"


@dataclass(frozen=True, kw_only=True)
class PrecisionRecord(Circumstances):
    """The throughput of the network in each precision, by `perf precision`.

    Attributes:
        device: The name of the GPU, or `cpu`.
        torch: The version of PyTorch.
        cuda: The version of CUDA that PyTorch was built for. None for a CPU build.
    """

    kind: ClassVar[str] = "precision"
    title: ClassVar[str] = "comparison of precisions"
    device: str
    torch: str
    cuda: str | None
    images_per_second: list[PrecisionThroughput]


Record = Point | ComparisonRecord | TuningRecord | AdviceRecord | CpuRecord | PrecisionRecord
RECORD_TYPES: dict[str, type[Record]] = {each.kind: each for each in get_args(Record)}
