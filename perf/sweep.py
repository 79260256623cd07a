"""Every load on every model, one perf_analyzer for each, each result on disk as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from perf import results
from perf.load import Generator, Load
from perf.machine import circumstances
from perf.serving import Subject


def loads(
    models: Sequence[str],
    *,
    batches: Sequence[int],
    concurrencies: Sequence[int],
    rates: Sequence[float] = (),
    protocols: Sequence[str] = ("grpc",),
    shared_memory: bool = False,
) -> list[Load]:
    """Every combination; request rates in the place of concurrencies where they are given."""
    levels = [{"concurrency": 0, "rate": rate} for rate in rates] or [{"concurrency": level} for level in concurrencies]
    memories = (False, True) if shared_memory else (False,)
    return [
        Load(model, batch, protocol=protocol, shared_memory=memory, **level)  # type: ignore[arg-type]
        for model, batch, protocol, memory, level in product(models, batches, protocols, memories, levels)
    ]


def sweep(
    subject: Subject,
    wanted: Sequence[Load],
    path: Path,
    command: str,
    *,
    least_window_s: float = 1.0,
    again: bool = False,
    note: Callable[[str], None] = lambda line: None,
) -> Iterator[tuple[Load, dict[str, Any]]]:
    """Measure what the file does not hold yet, and give each result with its load, those of earlier runs too.

    A result of an earlier run counts if machine, model, version and config are the same.

    Raises:
        AnalyzerFailed: perf_analyzer ended without a measurement; what was measured before is in the file.
        ResultsError: The file cannot be read or written.
        ClientError: A model does not answer.
    """
    facts = {model: subject.facts(model) for model in dict.fromkeys(load.model for load in wanted)}
    around = circumstances(command)
    known = {} if again else {_key(record): record for record in results.read(path) if record["kind"] == "point"}
    windows: dict[tuple[str, int], float] = {}
    with Generator(subject.url, subject.http_url) as generator:
        for load in wanted:
            record: dict[str, Any] = {**around, "model": facts[load.model], "load": asdict(load)}
            if found := known.get(_key(record)):
                yield load, found
                continue
            shape = (load.model, load.batch)
            if shape not in windows:
                windows[shape] = generator.window_s(load, least_window_s)
            before = subject.counters(load.model)
            measured = generator.measure(load, windows[shape], partial(note, f"{load}: unstable, tried again with longer windows"))
            record |= asdict(measured) | {"server": subject.used(before, subject.counters(load.model))}
            yield load, results.append(path, "point", record)


def _key(record: dict[str, Any]) -> str:
    return repr((record["machine"], sorted(record["model"].items()), sorted(record["load"].items())))
