"""Measure the artifact of every model in its runtime, without a server."""

from __future__ import annotations

import argparse
from functools import partial
from itertools import product
from typing import Any

from seresnext101_triton.perf import console, options

HELP = "measure artifacts in their runtimes, without a server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the models and the number of turns."""
    options.add_models(parser)
    options.add_numbers(parser, "--batches", (1, 8), "images in one run")
    options.add_rounds(parser, 5, "turns of each batch size")
    options.add_number(parser, "--seconds", 3.0, "the duration of one turn", options.duration)
    options.add_repository(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure one model and batch size after the other, and print the medians."""
    from seresnext101_triton.perf.raw import RawModel, use_server_allocator
    from seresnext101_triton.perf.tables import SPREAD, Table, spread
    from seresnext101_triton.perf.turns import take_turns
    from seresnext101_triton.server.models import served_models
    from seresnext101_triton.server.needs import artifact_models

    use_server_allocator()
    models = arguments.model or artifact_models(served_models(arguments.repository))
    results: list[dict[str, Any]] = []
    with console.progress(len(models) * len(arguments.batches) * arguments.rounds) as progress:
        for model, batch in product(models, arguments.batches):
            raw = RawModel(arguments.repository, model, batch)
            contestants = {model: partial(raw.throughput, arguments.seconds)}
            compared = take_turns(contestants, arguments.rounds, after_turn=progress.advance)
            turns = sorted(compared.turns[model])
            median = turns[len(turns) // 2]
            row = {"model": model, "batch": batch, "images_per_second": median, "turns": turns}
            results.append(row)
    if arguments.json:
        console.print_json(results)
        return 0
    header = ("model", "batch", f"images/s, {SPREAD}")
    rows = [(str(row["model"]), str(row["batch"]), spread(row["turns"])) for row in results]
    console.print_table(Table(header, rows))
    return 0
