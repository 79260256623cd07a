"""What `sweep`, `compare`, `raw`, `tune` and `report` do and print."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from client import Classifier
from perf import cpu, crops, report, results
from perf.compare import Ratio, Turn, compare, saved
from perf.errors import PerfError, ResultsError
from perf.load import Generator, Load
from perf.machine import circumstances
from perf.raw import Raw
from perf.serving import serving
from perf.sweep import loads, sweep
from perf.tune import Tuner, to_record, undo
from server.launcher import served_models

_RAW, _CLIENT, _PEER, _SAVED = "raw:", "client:", "peer:", ".jsonl"


def run_sweep(options: argparse.Namespace) -> int:
    """Measure every load; exit code 0 even where some are unstable, which the table says."""
    models = options.model or ([] if options.url else [folder.name for folder in served_models(options.repository)])
    with serving(options.repository, models, options.url, options.http_url) as subject:
        wanted = loads(
            models or subject.models(),
            batches=options.batches,
            concurrencies=options.concurrency,
            rates=options.rates,
            protocols=options.protocols,
            shared_memory=options.shared_memory,
        )
        records = []
        with _progress(len(wanted)) as (advance, note):
            measured = sweep(subject, wanted, options.results, _command(), least_window_s=options.window, again=options.again, note=note)
            for load, record in measured:
                records.append(record)
                advance()
                note(f"{load}: {record['throughput']:.1f} images/s, p99 {record['latency']['p99']:.1f} ms")
    results.write_csv(results.read(options.results), options.results.with_suffix(".csv"))
    if options.json:
        print(json.dumps(records, indent=2))
        return 0
    _print(report.POINT_HEADER, [report.point_row(record) for record in records])
    print(f"written to {options.results} and {options.results.with_suffix('.csv')}")
    return 0


def run_compare(options: argparse.Namespace) -> int:
    """Compare by turns; exit code 1 where a contestant is certainly slower than `--fail-under` allows."""
    if len(options.contestants) < 2:
        raise PerfError(
            "a comparison needs two contestants at least: name models, raw:MODEL, client:MODEL, peer:NAME, MODEL@HOST:PORT or result files"
        )
    files = [name.endswith(_SAVED) for name in options.contestants]
    if any(files) and not all(files):
        raise PerfError(f"a saved run ({_SAVED}) is compared with saved runs: nothing that answers now can take turns with it")
    if all(files):
        return _compare_saved(options)
    # The same one twice is a fair question: is the difference that is seen more than noise?
    names = [name if options.contestants.index(name) == index else f"{name} again" for index, name in enumerate(options.contestants)]
    served = [name.removeprefix(_CLIENT) for name in options.contestants if not name.startswith((_RAW, _PEER)) and "@" not in name]
    with ExitStack() as stack:
        subject = stack.enter_context(serving(options.repository, sorted(set(served)), options.url)) if served else None
        contestants = {
            name: _turn(contestant, subject.url if subject else "", options, stack)
            for name, contestant in zip(names, options.contestants, strict=True)
        }
        with _progress(len(contestants) * options.rounds) as (advance, _):
            comparison = compare(contestants, options.rounds, advance)
    ratios = {name: comparison.ratio(name) for name in names[1:]}
    record: dict[str, Any] = {**circumstances(_command()), "rounds": options.rounds, "turns": dict(comparison.turns)}
    record |= {
        "batch": options.batch,
        "concurrency": options.concurrency,
        "ratios": {name: asdict(ratio) for name, ratio in ratios.items()},
    }
    stored = results.append(options.results, "comparison", record)
    if options.json:
        print(json.dumps(stored, indent=2))
    else:
        _print(*report.comparison_table(stored))
    return _gate(ratios, names[0], options.fail_under)


def _compare_saved(options: argparse.Namespace) -> int:
    if len(set(options.contestants)) < len(options.contestants):
        raise PerfError("the same file twice is no comparison: name two saved runs")
    common, comparison = saved([Path(name) for name in options.contestants])
    first, *others = comparison.turns
    ratios = {name: comparison.ratio(name) for name in others}
    if options.json:
        document = {"loads": common, "images_per_second": dict(comparison.turns)}
        print(json.dumps(document | {"ratios": {name: asdict(ratio) for name, ratio in ratios.items()}}, indent=2))
    else:
        base = comparison.turns[first]
        rows = [
            [
                load,
                f"{base[row]:.1f}",
                *(f"{turns[row]:.1f} ({turns[row] / base[row]:.3f})" for turns in (comparison.turns[name] for name in others)),
            ]
            for row, load in enumerate(common)
        ]
        overall = [f"{ratio.value:.3f} ({ratio.low:.3f} – {ratio.high:.3f})" for ratio in ratios.values()]
        _print(["images/s", first, *others], [*rows, ["all loads, 99 % interval", "1", *overall]])
        print("not measured by turns: what the machine did meanwhile is in these ratios too", file=sys.stderr)
    return _gate(ratios, first, options.fail_under)


def _gate(ratios: Mapping[str, Ratio], first: str, least: float | None) -> int:
    slow = [name for name, ratio in ratios.items() if least and ratio.high < least]
    for name in slow:
        print(f"error: {name} is certainly below {least:g} times {first}", file=sys.stderr)
    return 1 if slow else 0


def run_raw(options: argparse.Namespace) -> int:
    """Run each artifact with no server."""
    rows = []
    for model in options.model or [folder.name for folder in served_models(options.repository)]:
        for batch in options.batches:
            raw = Raw(options.repository, model, batch)
            turns = sorted(raw.turn(options.seconds) for _ in range(options.turns))
            rows.append({"model": model, "batch": batch, "images_per_second": turns[len(turns) // 2], "turns": turns})
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    _print(
        ("model", "batch", "images/s, median", "lowest – highest"),
        [
            (row["model"], str(row["batch"]), f"{row['images_per_second']:.1f}", f"{row['turns'][0]:.1f} – {row['turns'][-1]:.1f}")
            for row in rows
        ],
    )
    return 0


def run_cpu(options: argparse.Namespace) -> int:
    """Measure every way to serve the network without a GPU, and write a table and a plot."""
    contestants = (len(cpu.FORMS) + 1) * len(cpu.BATCHES) + len(cpu.FORMS) * len(options.concurrency)
    with _progress(contestants * options.rounds) as (advance, note):
        note(f"{contestants} contestants, {options.rounds} turns of {options.seconds:g} s each, by turns")
        measured = cpu.measure(
            options.repository, options.name, options.concurrency, options.rounds, options.seconds, advance, options.architecture
        )
    promises = cpu.bars(measured)
    record = {**circumstances(_command()), **measured, "bars": [asdict(bar) for bar in promises]}
    stored = results.append(options.results, "cpu", record)
    tables = {
        "Images a second, median (10 % – 90 %): with no server, and served, one image in a request": cpu.table(stored),
        "What is promised": cpu.bar_table(promises),
    }
    folder = options.results.parent
    report.write_markdown(folder / "cpu.md", tables, stored)
    picture = cpu.draw(stored, folder)
    if options.json:
        print(json.dumps(stored, indent=2))
        return 0
    for header, rows in tables.values():
        _print(header, rows)
        print()
    print(f"written to {folder / 'cpu.md'}, {picture} and {picture.with_suffix('.png')}")
    return 0


def run_crops(options: argparse.Namespace) -> int:
    """Write crops of the photographs."""
    try:
        crops.write(options.folder, options.count)
    except OSError as error:
        raise ResultsError(f"{options.folder} cannot be written: {error.strerror}") from None
    return 0


def run_tune(options: argparse.Namespace) -> int:
    """Search and write the best configuration, or put the old one back."""
    if options.undo:
        undo(options.repository, options.model)
        print(f"{options.repository / options.model / 'config.pbtxt'} is as it was before tuning")
        return 0
    load = Load(options.model, options.batch, options.concurrency)
    with serving(options.repository, [options.model], control=True) as subject:
        facts = subject.facts(options.model)
        tuner = Tuner(subject, options.repository, load, options.p99_ms, window_s=options.window)
        tuning = tuner.search(
            options.rounds,
            lambda trial: print(
                f"{trial.step}: {trial.setting}: {trial.throughput:.1f} images/s, p99 {trial.p99_ms:.1f} ms{' over' * (not trial.within)}",
                file=sys.stderr,
            ),
        )
    record = {**circumstances(_command()), "model": facts, "load": asdict(load), "p99_ms": options.p99_ms, **to_record(tuning)}
    stored = results.append(options.results, "tuning", record)
    if tuning.chosen and not options.dry_run:
        tuner.write(options.repository, tuning.chosen)
    if options.json:
        print(json.dumps(stored, indent=2))
        return 0
    _print(*report.tuning_table(stored))
    print(report.verdict(stored))
    if tuning.chosen and not options.dry_run:
        print(f"written: {options.repository / options.model / 'config.pbtxt'}; `--undo` puts the old one back")
    return 0


def run_report(options: argparse.Namespace) -> int:
    """Write the report of one or several files of results."""
    records = [record for path in options.files or [options.results] for record in results.read(path)]
    for path in report.write(records, options.output):
        print(path)
    return 0


def _turn(contestant: str, url: str, options: argparse.Namespace, stack: ExitStack) -> Turn:
    if contestant.startswith(_RAW):
        raw = Raw(options.repository, contestant.removeprefix(_RAW), options.batch)
        return lambda: raw.turn(options.seconds)
    if contestant.startswith(_PEER):
        from perf.peers.launch import closed_loop, peer

        asks = stack.enter_context(peer(contestant.removeprefix(_PEER), options.concurrency, options.peer_architecture))
        return lambda: closed_loop(asks, options.seconds)
    model, _, elsewhere = contestant.removeprefix(_CLIENT).partition("@")
    if elsewhere:
        stack.enter_context(serving(options.repository, [model], elsewhere))
    if contestant.startswith(_CLIENT):
        from perf.peers.launch import closed_loop

        classifier = stack.enter_context(Classifier(elsewhere or url, model))
        people = [lambda file: [one.index for one in classifier.classify(file)]] * options.concurrency
        return lambda: closed_loop(people, options.seconds)
    load = Load(model, options.batch, options.concurrency)
    generator = stack.enter_context(Generator(elsewhere or url))
    return lambda: generator.turn(load, options.seconds).throughput


def _command() -> str:
    return shlex.join(["python", "-m", "perf", *sys.argv[1:]])


def _print(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(header):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


@contextmanager
def _progress(total: int) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """A bar with the time that is left where a person looks on, else one line for each thing done."""
    if not sys.stderr.isatty():
        yield lambda: None, lambda line: print(line, file=sys.stderr)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task), lambda line: progress.console.print(line, highlight=False)
