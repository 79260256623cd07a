"""How many replicas a rate of requests needs, from measured points of one replica.

**The model.** A replica is a queue with Poisson arrivals and `servers` parallel servers. A server
that gets free takes all requests that wait, up to the largest batch, and answers them together. The
time of a batch grows with its size as it was measured. The latencies are those of a simulated
queue, with the same random numbers for every number of replicas. Each replica gets an equal share
of the requests and has a queue of its own.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from google.protobuf import text_format

from seresnext101_triton.export import config
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.records import Machine, Point

_PERCENTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
_NORMAL_P99 = 2.326  # the 99th percentile of the standard normal distribution
_FULLEST = 0.95  # nothing is planned above this share of the capacity: it never drains
_MOST_REPLICAS = 100_000
_SIMULATED = 50_000  # requests
_SMALLEST_MEAN_BATCH = 1.5  # from which the time of larger batches is computed


@dataclass(frozen=True)
class Queue:
    """How one replica answers requests.

    Attributes:
        servers: How many batches it computes at the same time without making each slower.
        max_batch: The most requests that it answers together.
        first_ms: The time for a batch of one request while all servers are busy, in milliseconds.
        more_ms: The time by which each further request makes a batch longer, in milliseconds.
        variation: The coefficient of variation of the time of a batch.
    """

    servers: int
    max_batch: int
    first_ms: float
    more_ms: float
    variation: float


@dataclass(frozen=True)
class Replica:
    """What one server with the whole machine can do.

    Attributes:
        model: The served model.
        machine: The machine on which it was measured.
        capacity: The most images per second that were measured.
        queue: How it answers requests.
        alone_ms: The percentiles p50 to p99 of the latency of a request that is alone.
        cores: The mean number of cores in use at the most images per second. None if unknown.
        stable: Whether both measurements were stable.
    """

    model: str
    machine: Machine
    capacity: float
    queue: Queue
    alone_ms: dict[str, float]
    cores: float | None
    stable: bool = True

    def latency_ms(self, rate: float, percentile: str = "p99") -> float:
        """The predicted percentile of the latency under a rate of requests.

        Args:
            rate: Requests per second for this replica. At `capacity` and above, it is infinite.
            percentile: `p50`, `p90`, `p95` or `p99`.
        """
        if rate >= self.capacity:
            return math.inf
        return max(self.alone_ms[percentile], _latencies_ms(self.queue, rate)[percentile])


@dataclass(frozen=True)
class Plan:
    """How many replicas keep a bound.

    Attributes:
        replicas: The number of replicas.
        utilisation: The share of their capacity that the rate uses.
        latency_ms: The predicted percentiles of the latency.
    """

    replicas: int
    utilisation: float
    latency_ms: dict[str, float]


@dataclass(frozen=True)
class Check:
    """A prediction beside what was measured.

    Attributes:
        rate: Requests per second for all replicas.
        predicted_ms: The predicted 99th percentile of the latency.
        measured_ms: The measured one.
    """

    rate: float
    predicted_ms: float
    measured_ms: float


def replica_of(points: Sequence[Point], model: str) -> Replica:
    """What the points of a sweep say about one replica.

    Args:
        points: Measured points. Those of one image in a request, by concurrency, count.
        model: The model.

    Raises:
        PerfError: They do not say it: there is no point with one request in flight, they are of
            several machines, or the stored config of the model cannot be read.
    """
    used = [
        point
        for point in points
        if point.load.model == model and point.load.batch == 1 and not point.load.rate
    ]
    alone = [point for point in used if point.load.concurrency == 1]
    if not alone or len(used) == len(alone):
        raise PerfError(
            f"the results have no points of {model} with 1 request in flight and with several: "
            f"measure them with `python -m perf sweep --model {model} --concurrency 1,2,4,8`"
        )
    machines = {point.machine for point in used}
    if len(machines) > 1:
        raise PerfError(
            f"the results have points of {model} on {len(machines)} machines: name a file with "
            "those of one"
        )
    fullest = max(used, key=lambda point: point.throughput)
    latest = alone[-1]
    alone_ms = {name: latest.latency[name] for name in _PERCENTILES}
    return Replica(
        model,
        fullest.machine,
        fullest.throughput,
        _queue_of(latest, fullest),
        alone_ms,
        fullest.server.cores,
        fullest.stable and latest.stable,
    )


def _queue_of(alone: Point, fullest: Point) -> Queue:
    """How a replica answers, from the points with one request in flight and with the most images.

    If the batches of the fullest point were hardly larger than one request, nothing is known of
    larger ones. They are taken to need as long as their requests one by one.

    Raises:
        PerfError: The stored config of the model cannot be read.
    """
    servers = max(1, round(fullest.throughput / alone.throughput))
    try:
        max_batch = max(1, config.from_text(fullest.model.config).max_batch_size)
    except text_format.ParseError as error:
        raise PerfError(
            f"the results have a config of {fullest.model.name} that cannot be read ({error}): "
            "sweep into another file"
        ) from None
    variation = (alone.latency["p99"] / alone.latency["p50"] - 1) / _NORMAL_P99
    each_ms = 1000 * servers / fullest.throughput
    batch = fullest.server.mean_batch or 1.0
    if batch < _SMALLEST_MEAN_BATCH:
        return Queue(servers, max_batch, each_ms, each_ms, variation)
    first_ms = min(1000 / alone.throughput, batch * each_ms)
    more_ms = (batch * each_ms - first_ms) / (batch - 1)
    return Queue(servers, max_batch, first_ms, more_ms, variation)


@cache
def _latencies_ms(queue: Queue, rate: float) -> dict[str, float]:
    """The percentiles of the latency of a simulated queue, in milliseconds."""
    generator = np.random.default_rng(0)
    arrivals = (1000 / rate * generator.exponential(size=_SIMULATED).cumsum()).tolist()
    factors = np.maximum(1 + queue.variation * generator.standard_normal(_SIMULATED), 0.1).tolist()
    free = [0.0] * queue.servers
    latencies: list[float] = []
    while (first := len(latencies)) < _SIMULATED:
        start = max(arrivals[first], heapq.heappop(free))
        largest = min(first + queue.max_batch, _SIMULATED)
        last = bisect_right(arrivals, start, first + 1, largest)
        end = start + (queue.first_ms + queue.more_ms * (last - first - 1)) * factors[first]
        heapq.heappush(free, end)
        latencies += [end - arrival for arrival in arrivals[first:last]]
    found = np.quantile(latencies, list(_PERCENTILES.values()))
    return dict(zip(_PERCENTILES, map(float, found), strict=True))


def plan(replica: Replica, rate: float, p99_ms: float) -> Plan:
    """The smallest number of replicas that keeps a bound on the latency.

    Args:
        replica: What one replica can do.
        rate: Requests per second, each with one image.
        p99_ms: The bound on the 99th percentile of the latency, in milliseconds.

    Raises:
        PerfError: No number of replicas keeps it.
    """
    least = replica.alone_ms["p99"]
    if least > p99_ms:
        raise PerfError(
            f"no number of replicas keeps a p99 of {p99_ms:g} ms: a request that is alone needs "
            f"{least:.3g} ms on this machine. Allow more with `p99_ms`, or choose a faster model "
            "with `python -m perf advise`"
        )
    fewest = max(1, math.ceil(rate / (_FULLEST * replica.capacity)))
    if fewest > _MOST_REPLICAS:
        raise PerfError(f"`rate` needs over {_MOST_REPLICAS} replicas: plan a part of it")
    low, high = fewest, fewest
    while replica.latency_ms(rate / high) > p99_ms:
        low, high = high + 1, 2 * high
        if high > 1000 * _MOST_REPLICAS:
            raise PerfError(f"no number of replicas up to {high} keeps a p99 of {p99_ms:g} ms")
    while low < high:  # more replicas never make it slower
        middle = (low + high) // 2
        if replica.latency_ms(rate / middle) > p99_ms:
            low = middle + 1
        else:
            high = middle
    return plan_with(replica, rate, high)


def plan_with(replica: Replica, rate: float, replicas: int) -> Plan:
    """What a number of replicas means for a rate."""
    each = rate / replicas
    return Plan(
        replicas,
        each / replica.capacity,
        {name: replica.latency_ms(each, name) for name in _PERCENTILES},
    )


def checks(replica: Replica, points: Iterable[Point], replicas: int) -> list[Check]:
    """The predictions for rates that were measured against a number of replicas.

    A rate at or above the capacity has no prediction, and is left out.

    Raises:
        PerfError: There is no rate that the replicas can answer.
    """
    found = [
        Check(point.load.rate, predicted, point.latency["p99"])
        for point in points
        if point.load.model == replica.model and point.load.batch == 1 and point.load.rate
        if math.isfinite(predicted := replica.latency_ms(point.load.rate / replicas))
    ]
    if not found:
        raise PerfError(
            f"`check` has no rate of {replica.model} that `check_replicas` {replicas} can answer: "
            f"measure rates below {replicas * replica.capacity:.1f} with `python -m perf sweep "
            f"--model {replica.model} --rates ...` against them"
        )
    return found
