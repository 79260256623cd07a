"""Measure every combination of models and loads, one perf_analyzer for each.

Each result is stored at once. A second run measures only the loads that are not stored yet. A load
whose windows do not agree is measured again, then stored as unstable.
"""

from __future__ import annotations

import argparse

from seresnext101_triton.perf import console, options

HELP = "measure every load on every model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the loads, the server and the file of results."""
    options.add_models(parser)
    options.add_numbers(parser, "--batches", (1,), "images in one request")
    loads = parser.add_mutually_exclusive_group()
    options.add_numbers(loads, "--concurrency", (1, 2, 4, 8), "requests in flight")
    loads.add_argument(
        "--rates",
        type=options.rates,
        default=(),
        metavar="N,N",
        help="requests per second at random times, instead of --concurrency, for example 0.5,2",
    )
    parser.add_argument(
        "--protocols",
        type=options.protocols,
        default=("grpc",),
        metavar="P,P",
        help="grpc, http or both (default: grpc)",
    )
    parser.add_argument(
        "--shared-memory",
        action="store_true",
        help="measure each load through system shared memory too",
    )
    options.add_number(parser, "--window", 1.0, "the shortest measurement window", options.duration)
    parser.add_argument(
        "--again", action="store_true", help="measure the loads that are stored already, too"
    )
    options.add_repository(parser)
    options.add_url(parser)
    parser.add_argument(
        "--http-url",
        default="",
        metavar="HOST:PORT",
        help="with --url: the HTTP endpoint of that server",
    )
    options.add_results(parser)
    options.add_json(parser)
    parser.set_defaults(interrupted="what was measured is kept, and the same command goes on")


def run(arguments: argparse.Namespace) -> int:
    """Measure the loads. The exit code is 0 even if some are unstable; the table shows those."""
    from seresnext101_triton.perf import results
    from seresnext101_triton.perf.errors import UsageError
    from seresnext101_triton.perf.serving import serving
    from seresnext101_triton.perf.sweep import LoadGrid, Sweep
    from seresnext101_triton.perf.tables import point_table
    from seresnext101_triton.server.models import served_models
    from seresnext101_triton.server.needs import artifact_models

    if arguments.http_url and not arguments.url:
        raise UsageError("`http_url` is of a server that already runs: name it with `url`")
    path, table = arguments.results, arguments.results.with_suffix(".csv")
    if path == table:
        raise UsageError(f"`results` {path} is the name of the table: name a file like x.jsonl")
    results.check_writable(arguments.results)
    models = arguments.model or []
    if not (models or arguments.url):
        models = artifact_models(served_models(arguments.repository))
    # perf_analyzer cannot send the server's key over gRPC.
    allow = ["shared-memory"] if arguments.shared_memory else []
    with serving(
        arguments.repository, models, arguments.url, arguments.http_url, allow=allow
    ) as server:
        grid = LoadGrid(
            models=models or server.models(),
            batches=arguments.batches,
            concurrencies=arguments.concurrency,
            rates=arguments.rates,
            protocols=arguments.protocols,
            shared_memory=arguments.shared_memory,
        )
        loads, command = grid.loads(), console.command_line()
        sweep = Sweep(server, command, path, arguments.window, arguments.again)
        with console.progress(len(loads)) as progress:
            points = list(sweep.run(loads, progress))
    results.write_csv([record.document() for record in results.read(path)], table)
    if arguments.json:
        console.print_json([point.document() for point in points])
        return 0
    console.print_table(point_table(points))
    console.show(f"written to {path} and {table}")
    return 0
