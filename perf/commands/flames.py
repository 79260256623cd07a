"""Draw where the processor time of a served model goes: in the network, the server, the client.

Linux's `perf` looks at all threads of tritonserver, of the model's processes and of a client while
the client sends requests. It must be installed, and allowed to look at this user's processes
(`man perf_event_open`). The drawing is an SVG file; what has less than a quarter of a percent is
left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from seresnext101_triton.perf import console, options

HELP = "draw where the processor time of a served model goes"
_LOADS = ("tensors", "files")
_SMALLEST = 0.005  # share of a printed row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the load and the drawing."""
    parser.add_argument("model", metavar="MODEL", help="a published model")
    parser.add_argument(
        "--load",
        choices=_LOADS,
        default=_LOADS[0],
        help="what the client does: it sends eight prepared images at a time, or it opens, "
        "prepares and sends JPEG files as client bulk does (default: tensors)",
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="the drawing (default: none)")
    options.add_number(parser, "--seconds", 15.0, "the duration", options.duration)
    options.add_repository(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Take samples, draw them, and print the share of each library."""
    from seresnext101_triton.perf import results
    from seresnext101_triton.perf.flames import draw, sample_served
    from seresnext101_triton.perf.tables import Table

    if arguments.svg:
        results.check_writable(arguments.svg, "svg")
    found = sample_served(arguments.repository, arguments.model, arguments.load, arguments.seconds)
    title = f"{arguments.model}, a client that sends {arguments.load}: {found.total} samples"
    if arguments.svg:
        arguments.svg.write_text(draw(found, title), encoding="utf-8")
    shares = found.shares()
    if arguments.json:
        names = ("process", "library", "share")
        documents = [dict(zip(names, row, strict=True)) for row in shares]
        console.print_json({"samples": found.total, "shares": documents})
        return 0
    large = [row for row in shares if row[2] >= _SMALLEST]
    rest = sum(share for *_, share in shares) - sum(share for *_, share in large)
    rows = [[process, library, f"{share:.1%}"] for process, library, share in large]
    rows.append(["all others", "", f"{rest:.1%}"])
    console.print_table(Table(["process", "library", "processor time"], rows), title)
    return 0
