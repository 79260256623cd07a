"""`perf plan`: its queueing model beside known formulas and beside a simulated queue."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest

from seresnext101_triton.perf import results
from seresnext101_triton.perf.cli import main
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.plan import (
    Queue,
    Replica,
    checks,
    plan,
    plan_with,
    replica_of,
)
from seresnext101_triton.perf.records import Load, ModelDescription, Point, ServerUsage
from tests.perf.values import MACHINE, point

ALONE = {"p50": 50.0, "p90": 50.0, "p95": 50.0, "p99": 50.0}


def a_replica(servers: int = 1, max_batch: int = 1, **changes: object) -> Replica:
    """A replica whose requests all take 50 ms."""
    queue = Queue(servers, max_batch, 50.0, 50.0, 0.0)
    values = Replica("m", MACHINE, 20.0 * servers, queue, ALONE, 1.9)
    return replace(values, **changes)  # type: ignore[arg-type]


def waiting(servers: int, load: float) -> float:
    """The share of requests that wait with exponential times: Erlang's formula C."""
    terms = [load**number / math.factorial(number) for number in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


@pytest.mark.parametrize("servers", [1, 2, 4])
@pytest.mark.parametrize("used", [0.6, 0.8, 0.9])
def test_a_queue_without_batches_is_near_the_formula(servers, used):
    """The mean wait of M/D/m by Allen and Cunneen's formula, which is exact for one server.

    The wait of those who wait is taken as exponential there, which is right within 25 %.
    """
    replica = a_replica(servers)
    rate = used * replica.capacity
    mean_wait_ms = 1000 / 2 / (replica.capacity - rate)
    over = waiting(servers, used * servers) / 0.01
    expected = 50 + mean_wait_ms * math.log(over)
    assert replica.latency_ms(rate) == pytest.approx(expected, rel=0.25)


def test_batches_that_are_not_faster_make_answers_later():
    """Whoever waits is answered with all others that wait, at the end of their batch."""
    alone, batched = a_replica(), a_replica(max_batch=8)
    assert batched.latency_ms(12) > 1.2 * alone.latency_ms(12)
    assert batched.latency_ms(0.01) == pytest.approx(50)


def test_batches_that_are_faster_make_a_higher_rate_possible():
    """A batch of any size takes 50 ms: a request waits for the end of the running one at most."""
    queue = Queue(1, 1000, 50.0, 0.0, 0.0)
    replica = a_replica(queue=queue, capacity=10_000.0)
    for rate in (100, 5000):
        assert 95 < replica.latency_ms(rate) <= 100
        assert replica.latency_ms(rate, "p50") == pytest.approx(75, abs=2)
    assert a_replica(queue=replace(queue, max_batch=4), capacity=80.0).latency_ms(79) > 150


def test_times_that_vary_are_waited_for():
    varying = a_replica(queue=replace(a_replica().queue, variation=0.5))
    assert varying.latency_ms(16) > 1.1 * a_replica().latency_ms(16)


def test_the_plan_is_the_smallest_that_keeps_the_bound():
    replica = a_replica(2)
    for rate in (5, 12345.6):
        for p99_ms in (60, 500):
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
    assert (replica.capacity, replica.cores) == (19.0, 1.9)
    assert replica.alone_ms == ALONE | {"p50": 90.0, "p99": 95.0}
    (check,) = checks(replica, swept(), replicas=2)
    assert (check.rate, check.measured_ms) == (10.0, 120.0)
    assert check.predicted_ms == replica.latency_ms(5.0)
    with pytest.raises(PerfError, match="no rate of m .* measure rates below 10.0"):
        checks(a_replica(capacity=5.0), swept(), replicas=2)


def test_the_times_of_batches_are_those_that_were_measured():
    """Alone, a request takes 100 ms; eight at once are answered in batches of 4, 14 a second."""
    model = ModelDescription("m", "1", "", "seeded", "max_batch_size: 6")
    alone = point(Load("m", concurrency=1), 10.0, latency=ALONE | {"p99": 50 * (1 + 2.326 / 4)})
    usage = ServerUsage(mean_batch=4.0, cores=None, memory_mib=None)
    full = point(Load("m", concurrency=8), 14.0, model=model, server=usage)
    replica = replica_of([alone, full], "m")
    assert (replica.queue.servers, replica.queue.max_batch) == (1, 6)
    assert replica.queue.first_ms == pytest.approx(100)
    assert replica.queue.more_ms == pytest.approx((4000 / 14 - 100) / 3)
    assert replica.queue.variation == pytest.approx(0.25)
    one_by_one = replica_of([alone, replace(full, server=replace(usage, mean_batch=1.4))], "m")
    assert one_by_one.queue.first_ms == one_by_one.queue.more_ms == pytest.approx(1000 / 14)
    slower = replica_of([alone, replace(full, throughput=45.0)], "m")  # four servers
    assert (slower.queue.servers, slower.queue.first_ms) == (4, 100)
    assert slower.queue.more_ms == pytest.approx((16000 / 45 - 100) / 3)


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (swept()[1:], "no points of m with 1 request in flight"),
        (swept()[:1], "no points of m with 1 request in flight and with several"),
        (swept(machine=replace(MACHINE, cores=96)), "on 2 machines"),
        (
            swept(model=ModelDescription("m", "1", "onnx", "seeded", "rubbish {")),
            "a config of m that cannot be read .*: sweep into another file",
        ),
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
    assert f"{replicas} *" in text and "server with 2 cores" in text
    assert f"All replicas: {2 * replicas} cores." in text
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
