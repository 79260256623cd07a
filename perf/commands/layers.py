"""Show where the time of an OpenVINO model goes: its layers by kind, with their multiply-adds.

The model runs without a server, with all cores. OpenVINO's own clocks measure the layers, which
makes a run a little slower.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from seresnext101_triton.perf import console, options

HELP = "show where the time of an OpenVINO model goes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model and how it is run."""
    parser.add_argument("model", metavar="MODEL", help="a published OpenVINO model")
    options.add_number(parser, "--batch", 1, "images in one run", options.at_once)
    options.add_number(
        parser, "--seconds", 5.0, "the duration of each of two measurements", options.duration
    )
    options.add_repository(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print one row for each kind of layer."""
    from seresnext101_triton.perf.layers import profile
    from seresnext101_triton.perf.tables import Table

    found = profile(arguments.repository, arguments.model, arguments.batch, arguments.seconds)
    if arguments.json:
        document = asdict(found) | {"limit_ms": found.limit_ms}
        console.print_json(document)
        return 0
    total_ms = sum(kind.ms for kind in found.kinds)
    total_macs = sum(kind.macs for kind in found.kinds)
    rows = [
        [
            kind.kind,
            " ".join(kind.types),
            str(kind.count),
            f"{kind.macs / total_macs:.1%}" if kind.macs else "",
            f"{kind.ms:.2f}",
            f"{kind.ms / total_ms:.1%}",
            f"{kind.rate:.0f}" if kind.macs else "",
        ]
        for kind in found.kinds
    ]
    header = ["layers", "type", "count", "multiply-adds", "ms", "of the time", "10^9 a second"]
    threads = f"{found.threads} threads, batch {found.batch}"
    console.print_table(Table(header, rows), f"{found.model}, for one image, {threads}")
    console.show(
        f"\nOne image has {total_macs / 1e9:.2f} * 10^9 multiply-adds and takes {found.run_ms:.1f} "
        f"ms. If all of them ran like the fastest kind of layer, it would take "
        f"{found.limit_ms:.1f} ms."
    )
    return 0
