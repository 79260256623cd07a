"""Compare two or more ways to get answers. They take turns, so that a drifting machine favors none.

The result is the ratio of every other contestant to the first, with its 99 % interval. A contestant
is a model of the repository; raw:MODEL, its artifact in its runtime, without a server;
client:MODEL, photographs through this project's client; peer:fastapi, peer:litserve, peer:pytriton
or peer:rayserve, photographs to the eager network in another server, or peer:NAME/MODEL, to the
artifact of an ONNX or OpenVINO model in it; or MODEL@HOST:PORT. MODEL@N is version N of a model,
also behind raw: and client:, so that a new version can be judged before it is promoted.

Two or more files of results (.jsonl) compare the loads that these saved sweeps share.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from seresnext101_triton.perf import console, options

if TYPE_CHECKING:
    from seresnext101_triton.perf.turns import Comparison, Ratio

HELP = "compare two or more ways to get answers, in turns"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the contestants, their load, and the file of results."""
    parser.add_argument(
        "contestants",
        nargs="+",
        metavar="CONTESTANT",
        help="a model or another way to get answers, written as above, or a file of results",
    )
    options.add_number(parser, "--batch", 1, "images in one request", options.at_once)
    options.add_number(parser, "--concurrency", 4, "requests in flight", options.at_once)
    options.add_number(
        parser, "--rounds", 8, "turns of each contestant, three at least", options.rounds
    )
    options.add_number(parser, "--seconds", 6.0, "the duration of one turn", options.duration)
    parser.add_argument(
        "--measure",
        choices=("throughput", "p99"),
        default="throughput",
        help="what is compared: images per second, or the 99th percentile of the latency, of which "
        "less is better (default: throughput)",
    )
    options.add_architecture(parser, "--peer-architecture")
    parser.add_argument(
        "--fail-under",
        type=options.above_zero,
        metavar="RATIO",
        help="exit with code 1 if a ratio is certainly below this",
    )
    options.add_repository(parser)
    options.add_url(parser)
    options.add_results(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare. The exit code is 1 if a contestant is certainly slower than `--fail-under`."""
    from seresnext101_triton.perf.comparison import P99, SAVED_SUFFIX
    from seresnext101_triton.perf.errors import PerfError, UsageError

    saved = [name.endswith(SAVED_SUFFIX) for name in arguments.contestants]
    if arguments.measure == P99 and (any(saved) or arguments.fail_under):
        raise UsageError(
            "`measure` p99 goes neither with saved runs nor with `fail_under`: of latencies, a "
            "ratio over 1 is the worse one"
        )
    if len(saved) < 2 or not any(saved):
        return _compare_in_turns(arguments)
    if not all(saved):
        raise PerfError(
            f"a saved run ({SAVED_SUFFIX}) is compared with saved runs: nothing that answers now "
            "can take turns with it"
        )
    return _compare_saved(arguments)


def _compare_in_turns(arguments: argparse.Namespace) -> int:
    from seresnext101_triton.perf import results
    from seresnext101_triton.perf.comparison import CompareOptions, compare
    from seresnext101_triton.perf.machine import circumstances
    from seresnext101_triton.perf.raw import use_server_allocator
    from seresnext101_triton.perf.records import ComparisonRecord
    from seresnext101_triton.perf.tables import comparison_table

    results.check_writable(arguments.results)
    names = arguments.contestants
    if any(name.startswith("raw:") for name in names):
        use_server_allocator()
    settings = options.values(CompareOptions, arguments)
    with console.progress(len(names) * settings.rounds) as progress:
        comparison = compare(names, settings, progress)
    record = ComparisonRecord(
        **vars(circumstances(console.command_line())),
        rounds=settings.rounds,
        turns={name: list(values) for name, values in comparison.turns.items()},
        batch=settings.batch,
        concurrency=settings.concurrency,
        measure=settings.measure,
        ratios=comparison.ratios,
    )
    results.append(arguments.results, record)
    if arguments.json:
        console.print_json(record.document())
    else:
        console.print_table(comparison_table(record))
    return _exit_code(record.ratios, comparison.base, arguments.fail_under)


def _compare_saved(arguments: argparse.Namespace) -> int:
    from seresnext101_triton.perf.comparison import compare_saved
    from seresnext101_triton.perf.errors import PerfError

    if len(set(arguments.contestants)) < len(arguments.contestants):
        raise PerfError("the same file twice is no comparison: name two saved runs")
    loads, comparison = compare_saved([Path(name) for name in arguments.contestants])
    ratios = comparison.ratios
    if arguments.json:
        document = {"loads": loads, "images_per_second": dict(comparison.turns)}
        document["ratios"] = {name: asdict(ratio) for name, ratio in ratios.items()}
        console.print_json(document)
    else:
        _print_saved(loads, comparison)
    return _exit_code(ratios, comparison.base, arguments.fail_under)


def _print_saved(loads: list[str], comparison: Comparison) -> None:
    from seresnext101_triton.perf.tables import Table, interval

    first, *others = comparison.turns
    base = comparison.turns[first]
    rows = []
    for index, load in enumerate(loads):
        values = [comparison.turns[name][index] for name in others]
        cells = [f"{value:.1f} ({value / base[index]:.3f})" for value in values]
        rows.append([load, f"{base[index]:.1f}", *cells])
    overall = [interval(ratio) for ratio in comparison.ratios.values()]
    rows.append(["all loads, 99 % interval", "1", *overall])
    console.print_table(Table(["images/s", first, *others], rows))
    console.note("not measured in turns: these ratios contain every change of the machine too")


def _exit_code(ratios: Mapping[str, Ratio], first: str, minimum: float | None) -> int:
    slow = [name for name, ratio in ratios.items() if minimum and ratio.high < minimum]
    for name in slow:
        print(f"error: {name} is certainly below {minimum:g} times {first}", file=sys.stderr)
    return 1 if slow else 0
