"""Find the model that this machine serves best, and with which instances, threads and batches.

The models NAME_... of the repository race: each takes a turn in every round, and who is certainly
slower leaves. With the options of an export after `--`, every form of the network that a CPU can
serve is exported to a temporary repository first, and the best one is published.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from seresnext101_triton.client.output import with_flags
from seresnext101_triton.perf import console, options

if TYPE_CHECKING:
    from seresnext101_triton.perf.advise import AdviceOptions
    from seresnext101_triton.perf.records import AdviceRecord

HELP = "find the best of all models for this machine under bounds on latency and accuracy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the bounds, the load, and the options of an export."""
    options.add_name(parser)
    options.add_number(
        parser, "--concurrency", 8, "requests in flight, one image in each", options.at_once
    )
    options.add_p99(parser)
    parser.add_argument(
        "--max-loss",
        type=options.share,
        default=1.0,
        metavar="SHARE",
        help="the largest loss of accuracy, for example 0.01: the loss in the gate of the export, "
        "or, if the true classes were not known there, the share of other answers (default: what "
        "the export allowed)",
    )
    parser.add_argument(
        "--minutes",
        type=options.above_zero,
        default=4.0,
        metavar="N",
        help="the time for the race (default: 4)",
    )
    options.add_number(parser, "--seconds", 2.0, "the duration of one turn", options.duration)
    parser.add_argument("--dry-run", action="store_true", help="measure, and publish nothing")
    options.add_repository(parser)
    options.add_results(parser)
    options.add_json(parser)
    parser.add_argument(
        "export",
        nargs="*",
        metavar="-- OPTION",
        help="options of `python -m export`, for example: -- --weights finetuned.pth --calibration "
        "images. INT8 takes part if there are images to calibrate with",
    )
    parser.set_defaults(interrupted="nothing was published")


def run(arguments: argparse.Namespace) -> int:
    """Let the models race, and publish the best one."""
    from seresnext101_triton.perf import results
    from seresnext101_triton.perf.advise import AdviceOptions

    results.check_writable(arguments.results)
    settings = options.values(AdviceOptions, arguments)
    if arguments.export:
        return _export_and_advise(arguments, settings)
    record = _race(arguments.repository, arguments, settings)
    _show(record, arguments)
    if not arguments.dry_run:
        _write(record, arguments.repository)
    return 0


def _export_and_advise(arguments: argparse.Namespace, settings: AdviceOptions) -> int:
    from dataclasses import replace

    from seresnext101_triton.export.options import parse
    from seresnext101_triton.export.reporting import Reporter
    from seresnext101_triton.perf.candidates import export_best, export_candidates

    exported = parse(arguments.export)
    arguments.flags = exported.flags | arguments.flags
    reporter = Reporter(quiet=exported.quiet, reword=partial(with_flags, flags=arguments.flags))
    with tempfile.TemporaryDirectory(prefix="advise-") as folder:
        scratch = Path(folder) / "models"
        made = export_candidates(exported, scratch, reporter)
        record = _race(scratch, arguments, replace(settings, name=exported.name))
    _show(record, arguments)
    if not arguments.dry_run:
        best = record.best
        model = export_best(made[best.model], best.setting, arguments.repository, reporter)
        _say(f"published: {arguments.repository / model}")
    return 0


def _race(repository: Path, arguments: argparse.Namespace, settings: AdviceOptions) -> AdviceRecord:
    from seresnext101_triton.perf import results
    from seresnext101_triton.perf.advise import advise, subjects
    from seresnext101_triton.perf.machine import circumstances
    from seresnext101_triton.perf.records import AdviceRecord

    models, refused = subjects(repository, settings)
    for line in refused:
        console.note(f"left out: {line}")
    found = advise(repository, models, settings, console.note)
    record = AdviceRecord(
        **vars(circumstances(console.command_line())),
        **vars(found),
        concurrency=settings.concurrency,
        p99_ms=settings.p99_ms,
        max_loss=settings.max_loss,
        refused=refused,
    )
    return results.append(arguments.results, record)


def _show(record: AdviceRecord, arguments: argparse.Namespace) -> None:
    from seresnext101_triton.perf.tables import advice_table, advice_verdict

    if arguments.json:
        console.print_json(record.document())
        return
    console.print_table(advice_table(record))
    for line in advice_verdict(record):
        console.show(line)


def _write(record: AdviceRecord, repository: Path) -> None:
    """Write the setting of the best model into its config, if it is another one."""
    from seresnext101_triton.perf.records import Load
    from seresnext101_triton.perf.serving import MeasuredServer
    from seresnext101_triton.perf.tune import Tuner

    best = record.best
    tuner = Tuner(MeasuredServer("", "", None), repository, Load(best.model), None)
    if tuner.current == best.setting:
        _say(f"{repository / best.model / 'config.pbtxt'} has this setting already")
        return
    tuner.write(best.setting)
    _say(
        f"written: {repository / best.model / 'config.pbtxt'}; `python -m perf tune {best.model} "
        "--undo` restores the old one"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr)
