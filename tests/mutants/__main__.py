"""The command line: `python -m tests.mutants`, which `make mutants` runs."""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.mutations import Mutant, Source
from tests.mutants.reach import Reach
from tests.mutants.running import BY_TYPES, SURVIVED, Copy
from tests.mutants.subjects import Subject, chosen

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.toml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Mutate, run the tests, and print the scores and the survivors.

    Returns:
        The exit code: 1 where a package's score is below its bar.
    """
    options = _parser().parse_args(arguments)
    found: dict[tuple[str, str], list[tuple[Mutant, str]]] = defaultdict(list)
    with ExitStack() as stack:
        copies = [
            stack.enter_context(Copy(ROOT, options.folder / f"copy{index}"))
            for index in range(options.jobs)
        ]
        for subject, sampled in _sampled(options):
            reach = _reach(subject, copies[0])
            limit_s = 60 * options.minutes if options.minutes else math.inf
            for mutant, outcome in _run(sampled, reach, copies, limit_s):
                found[subject.package, mutant.file].append((mutant, outcome))
    return _report(found, options.least)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description="Put small bugs into a copy, and see whether tests fail.",
    )
    parser.add_argument(
        "only",
        nargs="*",
        metavar="PATH",
        help="files or folders to mutate, e.g. perf/turns.py (default: all)",
    )
    parser.add_argument(
        "--tests",
        nargs="+",
        metavar="PATH",
        help="run only these tests, which takes less time and notices less (default: all tests of "
        "the package)",
    )
    parser.add_argument(
        "--sample", type=int, metavar="N", help="random mutants of each package (default: all)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the sample (default: 0)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="copies that are tested at the same time (default: 1)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help="for each package; mutants for which no time is left are not counted",
    )
    parser.add_argument(
        "--least",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="exit code 1 below this score (default: 0.9)",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / ".mutants",
        metavar="DIR",
        help="of the copies (default: .mutants)",
    )
    return parser


def _sampled(options: argparse.Namespace) -> Iterator[tuple[Subject, list[Mutant]]]:
    """Subjects with the mutants to test, in a random order, without the equivalent ones."""
    excused = {
        (entry["file"], entry["before"], entry["after"])
        for entry in tomllib.loads(EQUIVALENT.read_text())["equivalent"]
    }
    for subject, files in chosen(ROOT, options.only):
        places = [
            (source, index)
            for source in (
                Source(file, (ROOT / file).read_text(encoding="utf-8")) for file in files
            )
            for index in range(len(source))
        ]
        random.Random(options.seed).shuffle(places)
        sampled: dict[str, Mutant] = {}
        for source, index in places:
            if options.sample and len(sampled) >= options.sample:
                break
            mutant = source.mutant(index)
            if mutant and (mutant.file, mutant.before, mutant.after) not in excused:
                sampled.setdefault(mutant.code, mutant)
        tests = tuple(options.tests or subject.tests)
        yield replace(subject, tests=tests), list(sampled.values())


def _reach(subject: Subject, copy: Copy) -> Reach:
    print(f"{subject.package}: {', '.join(subject.tests)} with nothing changed", file=sys.stderr)
    reach = copy.reach(subject.files(ROOT), subject.tests)
    if reach.failed:
        print(
            f"left out, since they do not pass with nothing changed: {', '.join(reach.failed)}",
            file=sys.stderr,
        )
    return reach


def _run(
    sampled: Sequence[Mutant], reach: Reach, copies: Sequence[Copy], limit_s: float
) -> list[tuple[Mutant, str]]:
    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in copies:
        free.put(copy)
    started = time.monotonic()

    def test(mutant: Mutant) -> tuple[Mutant, str] | None:
        if time.monotonic() - started > limit_s:
            return None
        copy = free.get()
        try:
            outcome = copy.outcome(mutant, reach)
        finally:
            free.put(copy)
        spent_s = time.monotonic() - started
        print(f"{spent_s:5.0f} s: {outcome} {mutant}", file=sys.stderr, flush=True)
        return mutant, outcome

    with ThreadPoolExecutor(len(copies)) as pool:
        return [result for result in pool.map(test, sampled) if result is not None]


def _report(found: dict[tuple[str, str], list[tuple[Mutant, str]]], least: float) -> int:
    for (_, _), results in sorted(found.items()):
        for mutant, outcome in sorted(results, key=lambda result: result[0].line):
            if outcome == SURVIVED:
                print(f"survived: {mutant}")
    packages: dict[str, list[str]] = defaultdict(list)
    for (package, file), results in sorted(found.items()):
        outcomes = [outcome for _, outcome in results]
        packages[package] += outcomes
        print(_score(f"  {file}", outcomes))
    for package, outcomes in packages.items():
        print(_score(package, outcomes))
    return int(any(_share(outcomes) < least for outcomes in packages.values()))


def _score(name: str, outcomes: Sequence[str]) -> str:
    killed = len(outcomes) - outcomes.count(SURVIVED)
    return (
        f"{name:36} {killed:5} of {len(outcomes):5} killed  {_share(outcomes):6.1%}, "
        f"{outcomes.count(BY_TYPES)} of them by mypy"
    )


def _share(outcomes: Sequence[str]) -> float:
    return 1 - outcomes.count(SURVIVED) / len(outcomes)


if __name__ == "__main__":
    sys.exit(main())
