"""Compare the throughput of many photographs with what its parts alone would allow.

The client's stream, which `client bulk` and `client evaluate` use, classifies JPEG files of one
size with a server on this machine. In turns with it, the network alone and the preparation of the
images alone are measured. The ratio is 1 if nothing else needs a core and no core ever waits.
"""

from __future__ import annotations

import argparse

from seresnext101_triton.perf import console, options

HELP = "compare the throughput of many photographs with that of its parts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the size of the photographs, and the turns."""
    parser.add_argument("model", metavar="MODEL", help="a published model")
    parser.add_argument(
        "--size",
        type=options.size,
        default="500x375",
        metavar="WIDTHxHEIGHT",
        help="the size of the photographs, in pixels (default: 500x375)",
    )
    options.add_number(parser, "--rounds", 8, "turns of each, three at least", options.rounds)
    options.add_number(parser, "--seconds", 4.0, "the duration of one turn", options.duration)
    options.add_repository(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print both values and their ratio."""
    from dataclasses import asdict

    from seresnext101_triton.perf.bulk import PARTS, STREAM, BulkOptions, measure_bulk
    from seresnext101_triton.perf.raw import use_server_allocator
    from seresnext101_triton.perf.tables import SPREAD, Table, interval, spread

    use_server_allocator()
    with console.progress(2 * arguments.rounds) as progress:
        found = measure_bulk(
            arguments.repository,
            arguments.model,
            options.values(BulkOptions, arguments),
            progress,
        )
    ratio = found.ratio(STREAM)
    if arguments.json:
        turns = {name: list(values) for name, values in found.turns.items()}
        console.print_json({"images_per_second": turns, "ratio": asdict(ratio)})
        return 0
    rows = [
        [PARTS, spread(found.turns[PARTS]), "1"],
        [STREAM, spread(found.turns[STREAM]), interval(ratio)],
    ]
    width, height = arguments.size
    title = f"{arguments.model}, photographs of {width}x{height} pixels"
    console.print_table(Table(["", f"images/s, {SPREAD}", f"ratio to {PARTS}"], rows), title)
    return 0
