"""Publishes many versions under load, some of them broken, and rolls back: a trial of minutes.

    python -m tests.server.versions_under_load --versions 200

A server follows the repository. Every tenth version is broken on purpose: its artifact is cut off,
or its config gives wrong dims. The report says how many requests were answered, failed, or answered
with what no version answers, and what the server's processes held before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil

from seresnext101_triton.client import Connection
from seresnext101_triton.export.operations import promote, roll_back
from seresnext101_triton.server.following import Follower
from seresnext101_triton.server.launcher import Server
from tests.conftest import FREE_PORTS
from tests.versions import MODEL, Caller, answer_of, publish_again, versions_of_one_model

_BROKEN_EVERY = 10
_DEADLINE_S = 300
_PAUSE_S = 0.02


def held_by(server: Server) -> dict[str, float]:
    """What the server's processes hold: memory, file descriptors, threads, shared memory."""
    process = psutil.Process(server.pid)
    family = [process, *process.children(recursive=True)]
    regions = [name for name in os.listdir("/dev/shm") if str(os.getpid()) in name]
    return {
        "processes": len(family),
        "memory_mib": round(sum(each.memory_full_info().pss for each in family) / 2**20, 1),
        "server_rss_mib": round(process.memory_info().rss / 2**20, 1),
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "shared_memory_regions": len(regions),
    }


def run(root: Path, versions: int, callers: int, minutes: float) -> dict[str, object]:
    """Publish the versions, roll back and forth, and return the report."""
    until = time.monotonic() + 60 * minutes
    versions_of_one_model(root, 2)
    answers = {1: answer_of(root, 1), 2: answer_of(root, 2)}
    notes: list[str] = []
    server = Server(root, ports=FREE_PORTS, follow=True, note=notes.append)
    follower, end = Follower(server, notes.append), threading.Event()
    refused, seconds = 0, []
    with ExitStack() as stack:
        stack.enter_context(server)

        def look() -> None:
            while not end.wait(0.1):
                follower.check()

        watch = threading.Thread(target=look)
        watch.start()
        stack.callback(watch.join)
        stack.callback(end.set)
        load = [Caller(server.url, answers, _PAUSE_S) for _ in range(callers)]
        for caller in load:
            stack.enter_context(caller.calling())
        time.sleep(2)
        before, samples = held_by(server), []
        for count in range(1, versions + 1):
            if time.monotonic() > until:
                break
            broken = count % _BROKEN_EVERY == 0
            known, started = len(notes), time.monotonic()
            number = publish_again(
                root,
                1 + count % 2,
                truncated=broken and count % 20 == 0,
                dims=999 if broken and count % 20 else 0,
            )
            while True:
                told = "\n".join(notes[known:])
                if ("still served" in told) if broken else (f"version {number} served now" in told):
                    break
                assert time.monotonic() - started < _DEADLINE_S, (number, notes[-3:])
                time.sleep(0.02)
            refused += broken
            seconds.append(time.monotonic() - started)
            if count % 20 == 0:
                samples.append(held_by(server))
                print(count, samples[-1], f"{seconds[-1]:.1f} s", file=sys.stderr, flush=True)
        rights = _roll(root, server, answers)
        time.sleep(2)
        after = held_by(server)
    seen = Counter(version for caller in load for version in caller.seen)
    return {
        "versions": len(seconds),
        "refused": refused,
        "answered": sum(seen.values()),
        "of_no_version": seen[0],
        "failed": [error for caller in load for error in caller.errors],
        "seconds_for_a_version": [min(seconds), sorted(seconds)[len(seconds) // 2], max(seconds)],
        "first_answer_right": rights,
        "before": before,
        "samples": samples,
        "after": after,
    }


def _roll(root: Path, server: Server, answers: Mapping[int, np.ndarray]) -> str:
    """Roll back and forth under load. How many first answers were the right version's."""
    right, rounds = 0, 10
    with Connection(server.url) as connection:
        model = replace(connection.describe(MODEL), version="")
        asker = Caller(server.url, answers)
        for number in range(rounds):
            to = 1 + number % 2
            (roll_back if number == 0 else promote)(root, MODEL, to=to)
            right += asker.ask(connection, model) == to
    return f"{right} of {rounds}"


def main() -> None:
    """Read the options, and print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=200)
    parser.add_argument("--callers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60, help="publish no more after this time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="versions-") as folder:
        report = run(Path(folder) / "models", options.versions, options.callers, options.minutes)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
