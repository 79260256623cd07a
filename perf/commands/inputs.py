"""Compare what clients send: normalised values, pixels, or the image files as they are.

The models are NAME, NAME_uint8 (exported with `--input uint8`) and NAME_image (`--image-input`), as
far as the server has them. They take turns. Decoding counts, wherever it is done.
"""

from __future__ import annotations

import argparse
from statistics import median

from seresnext101_triton.perf import console, options

HELP = "compare values, pixels and image files as the input of a network"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the loads and the server."""
    parser.add_argument("model", metavar="NAME", help="the model that takes normalised values")
    options.add_numbers(parser, "--in-flight", (8, 16), "requests at the same time, besides 1")
    options.add_rounds(parser, 10, "turns of each way, three at least", options.rounds)
    options.add_number(parser, "--seconds", 3.0, "the duration of one turn", options.duration)
    options.add_repository(parser)
    options.add_url(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure the ways, and print a table."""
    from seresnext101_triton.client.server_side import IMAGE_SUFFIX
    from seresnext101_triton.perf.inputs import PIXEL_SUFFIX, InputOptions, measure_inputs
    from seresnext101_triton.perf.serving import serving
    from seresnext101_triton.perf.tables import Table, interval
    from seresnext101_triton.server.models import served_models

    models: list[str] = []
    if not arguments.url:
        names = {arguments.model + suffix for suffix in ("", PIXEL_SUFFIX, IMAGE_SUFFIX)}
        served = {folder.name for folder in served_models(arguments.repository)}
        models = sorted(names & served) or [arguments.model]
    measured = options.values(InputOptions, arguments)
    loads = measured.loads
    steps = measured.rounds * len(loads) * max(len(models), 2)
    with (
        serving(arguments.repository, models, arguments.url) as server,
        console.progress(steps) as progress,
    ):
        ways = measure_inputs(server, arguments.model, measured, progress.advance)
    if arguments.json:
        console.print_json([vars(way) for way in ways])
        return 0
    base, rows = ways[0], []
    for way in ways:
        cells = [f"{median(way.throughput[load]):.1f}" for load in loads[1:]]
        if way is not base:
            ratios = [interval(way.ratio(base, load), 2) for load in loads[1:]]
            cells = [f"{cell}  {ratio}" for cell, ratio in zip(cells, ratios, strict=True)]
        cpu = f"{median(way.server_cpu_ms[loads[-1]]):.1f}" if way.server_cpu_ms else "–"
        rows.append((way.sent, f"{way.bytes / 1000:.1f}", f"{way.latency_ms():.1f}", *cells, cpu))
    heads = [f"images/s at {load}" for load in loads[1:]]
    title = (
        f"{arguments.model}: photographs, decoding included, over {arguments.rounds} rounds; "
        "ratios to the first row with 99 % intervals"
    )
    table = Table(("sent", "kB", "ms alone", *heads, "server CPU ms/image"), rows)
    console.print_table(table, title)
    return 0
