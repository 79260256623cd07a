"""`perf plan`: its queueing model beside known formulas and beside a simulated queue."""

from __future__ import annotations

import heapq
import json
import math
import shlex
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from seresnext101_triton.perf import results
from seresnext101_triton.perf.cli import main
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.plan import (
    Replica,
    checks,
    erlang_c,
    plan,
    plan_with,
    replica_of,
)
from seresnext101_triton.perf.records import Load, Point
from tests.perf.values import MACHINE, point

ALONE = {"p50": 50.0, "p90": 50.0, "p95": 50.0, "p99": 50.0}


def a_replica(servers: int = 1, **changes: object) -> Replica:
    """A replica whose requests all take 50 ms."""
    values = Replica("m", MACHINE, 20.0 * servers, servers, ALONE, 1.9)
    return replace(values, **changes)  # type: ignore[arg-type]


def simulated_ms(replica: Replica, rate: float) -> list[float]:
    """The latencies of 100,000 requests that arrive at random times."""
    generator = np.random.default_rng(0)
    arrivals = np.cumsum(generator.exponential(1 / rate, 100_000))
    free = [0.0] * replica.servers
    latencies = []
    for arrival in arrivals:
        end = max(arrival, heapq.heappop(free)) + replica.service_ms / 1000
        heapq.heappush(free, end)
        latencies.append(1000 * (end - arrival))
    return latencies


def test_erlangs_formula():
    """Of one server, the share that waits is its utilisation. Of two, it is a^2 / (2 + a)."""
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    for load in (0.3, 1.0, 1.7):
        assert erlang_c(2, load) == pytest.approx(load**2 / (2 + load))
    assert erlang_c(5, 1e-9) == pytest.approx(0, abs=1e-9)


def test_a_queue_with_exponential_times_is_exact():
    """In M/M/1, a wait is over t with the probability rho * exp(-(capacity - rate) * t)."""
    variation = 1.0
    replica = a_replica(alone_ms=ALONE | {"p99": 50 * (1 + 2.326 * variation)})
    assert replica.variation == pytest.approx(variation)
    wait_ms = 1000 * math.log(0.9 / 0.01) / (20 - 18)
    assert replica.latency_ms(18) == pytest.approx(50 + wait_ms)


@pytest.mark.parametrize("servers", [1, 2, 4])
@pytest.mark.parametrize("used", [0.3, 0.6, 0.8, 0.9])
def test_a_queue_with_equal_times_is_near_a_simulated_one(servers, used):
    replica = a_replica(servers)
    rate = used * replica.capacity
    latencies = simulated_ms(replica, rate)
    for name, percentile in (("p50", 50), ("p95", 95), ("p99", 99)):
        simulated = np.percentile(latencies, percentile)
        assert replica.latency_ms(rate, name) == pytest.approx(simulated, rel=0.25), name


def test_the_plan_is_the_smallest_that_keeps_the_bound():
    replica = a_replica(2)
    for rate in (5, 100, 2000, 12345.6):
        for p99_ms in (60, 100, 500):
            found = plan(replica, rate, p99_ms)
            assert found.latency_ms["p99"] <= p99_ms and found.utilisation <= 0.95
            if found.replicas > 1:
                fewer = plan_with(replica, rate, found.replicas - 1)
                assert fewer.latency_ms["p99"] > p99_ms or fewer.utilisation > 0.95
    assert found.utilisation == pytest.approx(rate / found.replicas / 40)


def test_what_no_number_of_replicas_keeps():
    with pytest.raises(PerfError, match="alone needs 50 ms"):
        plan(a_replica(), 10, 49.9)
    with pytest.raises(PerfError, match="`rate` needs over"):
        plan(a_replica(), 1e9, 100)
    assert a_replica().latency_ms(20) == math.inf


def swept(**changes: object) -> list[Point]:
    alone = point(Load("m", concurrency=1), 10.0, latency=ALONE | {"p50": 90.0, "p99": 95.0})
    full = point(Load("m", concurrency=8), 19.0)
    others = [
        point(Load("m", concurrency=2), 18.0),
        point(Load("m", batch=8, concurrency=8), 99.0),
        point(Load("other", concurrency=8), 99.0),
        point(Load("m", concurrency=0, rate=10.0), 10.0, latency=ALONE | {"p99": 120.0}),
    ]
    return [alone, *others, replace(full, **changes)]  # type: ignore[arg-type]


def test_what_a_sweep_says_of_a_replica():
    replica = replica_of(swept(), "m")
    assert (replica.capacity, replica.servers, replica.cores) == (19.0, 2, 1.9)
    assert replica.alone_ms == ALONE | {"p50": 90.0, "p99": 95.0}
    (check,) = checks(replica, swept(), replicas=2)
    assert (check.rate, check.measured_ms) == (10.0, 120.0)
    assert check.predicted_ms == replica.latency_ms(5.0)
    with pytest.raises(PerfError, match="no rate of m .* measure rates below 10.0"):
        checks(a_replica(capacity=5.0), swept(), replicas=2)


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (swept()[1:], "no points of m with 1 request in flight"),
        (swept()[:1], "no points of m with 1 request in flight and with several"),
        (swept(machine=replace(MACHINE, cores=96)), "on 2 machines"),
    ],
)
def test_a_sweep_that_does_not_say_it(points, reason):
    with pytest.raises(PerfError, match=reason):
        replica_of(points, "m")


def test_the_command(tmp_path, capsys):
    path = tmp_path / "results.jsonl"
    for each in swept():
        results.append(path, each)
    command = ["plan", "m", "--rate", "200", "--p99-ms", "150", "--results", str(path)]
    check = ["--check", str(path), "--check-replicas", "2"]
    assert main([*command, *check, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    replicas = document["plan"]["replicas"]
    assert replicas == plan(replica_of(swept(), "m"), 200, 150).replicas
    assert document["checks"][0]["measured_ms"] == 120.0
    assert main([*command, *check]) == 0
    text = capsys.readouterr().out
    assert f"{replicas} *" in text and f"All replicas: {2 * replicas} cores." in text
    assert "2 replicas" in text and "120.0" in text

    assert main(["plan", "m", "--rate", "1", "--p99-ms", "150", "--results", str(path)]) == 0
    shown = capsys.readouterr()
    assert "\n1 replica answers 1 requests/s" in shown.out and shown.err == ""
    assert replica_of([replace(each, stable=False) for each in swept()], "m").stable is False
    shell = f"{sys.executable} -m seresnext101_triton perf {shlex.join(command)}"
    for sink, expected in ((">/dev/full", 73), ("| head -c 0", 0)):
        full = subprocess.run(f"{shell} {sink}", shell=True, capture_output=True, text=True)
        assert (full.returncode, full.stderr.count("\n")) == (expected, expected != 0)

    assert main(["plan", "m", "--rate", "200", "--p99-ms", "9", "--results", str(path)]) == 1
    assert "no number of replicas keeps a p99 of 9 ms" in capsys.readouterr().err
    missing = ["--results", str(tmp_path / "none.jsonl")]
    assert main(["plan", "m", "--rate", "200", "--p99-ms", "9", *missing]) == 73
    assert "none.jsonl does not exist: measure first" in capsys.readouterr().err
    assert main(["plan", "n", "--rate", "200", "--p99-ms", "9", "--results", str(path)]) == 1
    assert "perf sweep --model n --concurrency 1,2,4,8" in capsys.readouterr().err
