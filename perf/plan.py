"""How many replicas a rate of requests needs, from measured points of one replica.

**The model.** A replica is a queue with Poisson arrivals and `servers` parallel servers. The mean
wait is that of Allen and Cunneen for M/G/m: Erlang's formula C gives the share of requests that
wait, and among them the wait is taken as exponential. Each replica gets an equal share of the
requests and has a queue of its own. A proxy that knows which replica is idle does better, so that
the result is on the safe side. Sources: A. O. Allen, Probability, Statistics, and Queueing Theory,
1990, section 5.3.2; L. Kleinrock, Queueing Systems I, 1975, section 3.5 (Erlang's formula C).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.records import Machine, Point

_PERCENTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
_NORMAL_P99 = 2.326  # the 99th percentile of the standard normal distribution
_FULLEST = 0.95  # nothing is planned above this share of the capacity: it never drains
_MOST_REPLICAS = 100_000


@dataclass(frozen=True)
class Replica:
    """What one server with the whole machine can do.

    Attributes:
        model: The served model.
        machine: The machine on which it was measured.
        capacity: The most images per second that were measured.
        servers: How many requests it computes at the same time without making each slower.
        alone_ms: The percentiles p50 to p99 of the latency of a request that is alone.
        cores: The mean number of cores in use at the most images per second. None if unknown.
        stable: Whether both measurements were stable.
    """

    model: str
    machine: Machine
    capacity: float
    servers: int
    alone_ms: dict[str, float]
    cores: float | None
    stable: bool = True

    @property
    def service_ms(self) -> float:
        """The time that a server needs for a request while all servers are busy."""
        return 1000 * self.servers / self.capacity

    def latency_ms(self, rate: float, percentile: str = "p99") -> float:
        """The predicted percentile of the latency under a rate of requests.

        Args:
            rate: Requests per second for this replica. At `capacity` and above, it is infinite.
            percentile: `p50`, `p90`, `p95` or `p99`.
        """
        if rate >= self.capacity:
            return math.inf
        waits = erlang_c(self.servers, rate * self.service_ms / 1000)
        over = waits / (1 - _PERCENTILES[percentile])
        mean_wait_ms = 1000 * (1 + self.variation**2) / 2 / (self.capacity - rate)
        wait_ms = mean_wait_ms * math.log(over) if over > 1 else 0.0
        return max(self.alone_ms[percentile], self.service_ms + wait_ms)

    @property
    def variation(self) -> float:
        """The coefficient of variation of the time for one request, from its percentiles."""
        return (self.alone_ms["p99"] / self.alone_ms["p50"] - 1) / _NORMAL_P99


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


def erlang_c(servers: int, load: float) -> float:
    """The share of requests that must wait, by Erlang's formula C.

    Args:
        servers: The number of parallel servers.
        load: The rate of arrivals, multiplied by the mean time of a request; below `servers`.
    """
    blocked = 1.0  # Erlang's formula B, by its recursion over the number of servers
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return servers * blocked / (servers - load * (1 - blocked))


def replica_of(points: Sequence[Point], model: str) -> Replica:
    """What the points of a sweep say about one replica.

    Args:
        points: Measured points. Those of one image in a request, by concurrency, count.
        model: The model.

    Raises:
        PerfError: They do not say it: there is no point with one request in flight, or they are of
            several machines.
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
    return Replica(
        model,
        fullest.machine,
        fullest.throughput,
        max(1, round(fullest.throughput / latest.throughput)),
        {name: latest.latency[name] for name in _PERCENTILES},
        fullest.server.cores,
        fullest.stable and latest.stable,
    )


def plan(replica: Replica, rate: float, p99_ms: float) -> Plan:
    """The smallest number of replicas that keeps a bound on the latency.

    Args:
        replica: What one replica can do.
        rate: Requests per second, each with one image.
        p99_ms: The bound on the 99th percentile of the latency, in milliseconds.

    Raises:
        PerfError: No number of replicas keeps it.
    """
    least = replica.latency_ms(0.0)
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
