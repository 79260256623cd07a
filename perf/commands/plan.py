"""Say how many replicas a rate of requests needs, so that the latency keeps a bound.

It computes from measured points of one replica: those of `perf sweep --concurrency 1,2,4,8` on this
machine, or a file of results from another. A replica is a server with the whole machine of the
points. It is simulated as a queue with the measured times of its batches, and each replica gets an
equal share of the requests, which arrive at random.

With --check, the model is compared with points that `perf sweep --rates ...` has measured against a
number of replicas, for example against a server that was started with --replicas 2.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from seresnext101_triton.perf import console, options

if TYPE_CHECKING:
    from seresnext101_triton.perf.plan import Check, Plan, Replica

HELP = "say how many replicas a rate of requests needs"
_MORE = 3  # numbers of replicas that are shown besides the answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the rate, the bound, and the files."""
    parser.add_argument("model", metavar="MODEL", help="a model that a sweep has measured")
    parser.add_argument(
        "--rate",
        type=options.above_zero,
        required=True,
        metavar="N",
        help="requests per second, each with one image",
    )
    options.add_p99(parser, required=True)
    parser.add_argument(
        "--check",
        type=Path,
        metavar="FILE",
        help="a file of results with rates that were measured against --check-replicas",
    )
    options.add_number(parser, "--check-replicas", 2, "the number of replicas of --check")
    options.add_results(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan, and how far the model was from what was measured."""
    from seresnext101_triton.perf import results
    from seresnext101_triton.perf.plan import checks, plan, plan_with, replica_of
    from seresnext101_triton.perf.records import Point

    def points_of(path: Path) -> list[Point]:
        return [record for record in results.read(path) if isinstance(record, Point)]

    replica = replica_of(points_of(arguments.results), arguments.model)
    if not replica.stable:
        console.note(
            f"note: the points of {replica.model} were not stable: measure them again on a quiet "
            "machine, with `perf sweep --again`"
        )
    found = plan(replica, arguments.rate, arguments.p99_ms)
    others = [
        plan_with(replica, arguments.rate, count)
        for count in range(found.replicas - _MORE, found.replicas + _MORE + 1)
        if count > 0 and arguments.rate < count * replica.capacity
    ]
    checked: list[Check] = []
    if arguments.check:
        checked = checks(replica, points_of(arguments.check), arguments.check_replicas)
    if arguments.json:
        document = {"replica": asdict(replica), "plan": asdict(found)}
        console.print_json(document | {"checks": [asdict(each) for each in checked]})
        return 0
    _print(arguments, replica, found, others)
    if arguments.check:
        _print_checks(arguments, checked)
    return 0


def _print(
    arguments: argparse.Namespace, replica: Replica, found: Plan, others: list[Plan]
) -> None:
    from seresnext101_triton.perf.tables import Table

    rows = [
        [
            f"{each.replicas}{' *' if each == found else ''}",
            f"{each.utilisation:.0%}",
            *(_ms(each.latency_ms[name]) for name in ("p50", "p99")),
        ]
        for each in others
    ]
    console.print_table(Table(["replicas", "used", "p50 ms", "p99 ms"], rows))
    machine = replica.machine
    size = f"{machine.cores} cores ({machine.cpu})" + (f", {machine.gpu}" if machine.gpu else "")
    with_cores = "with" if replica.cores else "as the measured one, on"
    answer = "replica answers" if found.replicas == 1 else "replicas answer"
    console.show(
        f"\n{found.replicas} {answer} {arguments.rate:g} requests/s with a p99 of "
        f"{_ms(found.latency_ms['p99'])} ms; {found.replicas + 1} do so if one may be away.\n"
        f"A replica is a server {with_cores} {size}: at "
        f"most {replica.capacity:.1f} images/s, {replica.queue.servers} at the same time; alone, "
        f"p50 {_ms(replica.alone_ms['p50'])} ms and p99 {_ms(replica.alone_ms['p99'])} ms."
    )
    if replica.cores:  # otherwise, which cores the server could use is not known
        gpus = f" and {found.replicas} GPUs" if machine.gpu else ""
        console.show(f"All replicas: {found.replicas * machine.cores} cores{gpus}.")


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _print_checks(arguments: argparse.Namespace, checked: list[Check]) -> None:
    from seresnext101_triton.perf.tables import Table

    rows = [
        [
            f"{each.rate:g}",
            f"{each.predicted_ms:.1f}",
            f"{each.measured_ms:.1f}",
            f"{each.predicted_ms / each.measured_ms:.2f}",
        ]
        for each in checked
    ]
    header = ["requests/s", "p99 ms, predicted", "measured", "ratio"]
    console.print_table(Table(header, rows), f"{arguments.check_replicas} replicas")
