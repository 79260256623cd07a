"""Search the fastest configuration under a bound on the latency, and write it into config.pbtxt.

The search tries instances and threads, then the largest batch, then the queue delay, each from the
best setting so far. The best setting is measured again in turns with the old configuration, and
written only if it is certainly faster.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from seresnext101_triton.perf import console, options

if TYPE_CHECKING:
    from seresnext101_triton.perf.settings import Trial

HELP = "find the best configuration under a bound on latency, and write it into config.pbtxt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, its load, and the bound."""
    parser.add_argument("model", metavar="MODEL", help="the name of the model")
    options.add_p99(parser)
    options.add_number(parser, "--batch", 1, "images in one request", options.at_once)
    options.add_number(parser, "--concurrency", 8, "requests in flight", options.at_once)
    options.add_number(
        parser, "--rounds", 5, "turns of each side in the confirmation", options.rounds
    )
    parser.add_argument(
        "--window",
        type=options.above_zero,
        metavar="S",
        help="the measurement window; a trial has three (default: about 25 requests of one client)",
    )
    parser.add_argument("--dry-run", action="store_true", help="do not write the configuration")
    parser.add_argument(
        "--undo", action="store_true", help="restore the configuration from before the tuning"
    )
    options.add_repository(parser)
    options.add_results(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Search and write the best configuration, or restore the old one."""
    from seresnext101_triton.perf.tune import undo

    if arguments.undo:
        undo(arguments.repository, arguments.model)
        console.show(f"{_config_path(arguments)} is as it was before tuning")
        return 0
    return _tune(arguments)


def _tune(arguments: argparse.Namespace) -> int:
    from seresnext101_triton.perf import results
    from seresnext101_triton.perf.machine import circumstances
    from seresnext101_triton.perf.records import Load, TuningRecord
    from seresnext101_triton.perf.serving import serving
    from seresnext101_triton.perf.tables import tuning_table, tuning_verdict
    from seresnext101_triton.perf.tune import Tuner

    results.check_writable(arguments.results)
    repository, bound_ms = arguments.repository, arguments.p99_ms
    load = Load(arguments.model, arguments.batch, arguments.concurrency)
    with serving(repository, [load.model], allow=["model-repository"]) as server:
        model = server.describe(load.model)
        tuner = Tuner(server, repository, load, bound_ms, window_s=arguments.window)
        tuning = tuner.search(arguments.rounds, _note_trial)
    outcome, around = tuning.outcome, circumstances(console.command_line())
    record = TuningRecord(**vars(around), **vars(outcome), model=model, load=load, p99_ms=bound_ms)
    results.append(arguments.results, record)
    written = outcome.chosen and not arguments.dry_run
    if outcome.chosen and written:
        tuner.write(outcome.chosen)
    if arguments.json:
        console.print_json(record.document())
        return 0
    console.print_table(tuning_table(record))
    console.show(tuning_verdict(record))
    if written:
        console.show(f"written: {_config_path(arguments)}; `--undo` restores the old one")
    return 0


def _note_trial(trial: Trial) -> None:
    over = "" if trial.within else " over"
    console.note(
        f"{trial.step}: {trial.setting}: {trial.throughput:.1f} images/s, "
        f"p99 {trial.p99_ms:.1f} ms{over}"
    )


def _config_path(arguments: argparse.Namespace) -> str:
    return str(arguments.repository / arguments.model / "config.pbtxt")
