"""Measure the time that a server adds to a single request.

The same artifact answers alone in its runtime, and over gRPC, at batch 1. Both take turns.
"""

from __future__ import annotations

import argparse

from seresnext101_triton.perf import console, options

HELP = "measure the time that a server adds to a single request"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the repository and the number of rounds."""
    options.add_repository(parser)
    options.add_rounds(parser, 40, "turns of each side")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure every model of the repository, and print the medians."""
    from seresnext101_triton.perf.overhead import measure_overhead
    from seresnext101_triton.perf.tables import SPREAD, Table, spread

    results = measure_overhead(arguments.repository, arguments.rounds)
    if arguments.json:
        document = [
            {
                "model": result.model,
                "added_ms": result.added[0],
                "added_ms_interval": result.added[1:],
                "equal": result.equal,
                "alone_ms": list(result.alone),
                "served_ms": list(result.served),
            }
            for result in results
        ]
        console.print_json(document)
        return 0
    rows = []
    for result in results:
        middle, low, high = result.added
        added = f"{middle:+.1f} ({low:+.1f} – {high:+.1f})"
        rows.append((result.model, spread(result.alone), spread(result.served), added))
    title = (
        f"one request at batch 1, in ms, over {arguments.rounds} rounds: {SPREAD},\n"
        "and the median of the time that serving adds (95 % interval)"
    )
    console.print_table(Table(("", "alone", "served", "added"), rows), title)
    return 0
