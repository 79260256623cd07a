"""What a server adds to a single request: the same artifact with the same input, in its runtime and over gRPC, by turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client import Classifier
from client.images import sample_photographs
from export import manifest
from export.formats import FORMATS
from export.repository import Repository
from server import runtimes
from server.launcher import Ports, Server, served_models

# A turn is a burst of requests, one after the other as a busy client sends them. Its first is not counted: it pays for threads of the
# other side that still spin, and for waking its own.
_BURST = 4
_WARMUP_ROUNDS = 2
_RESAMPLES = 2000


@dataclass(frozen=True)
class Overhead:
    """Latencies of one model at batch 1, in milliseconds.

    Attributes:
        alone: Of the runtime in this process; for each round the median of its burst.
        served: Of the same request over gRPC, likewise.
        equal: Whether both gave the same answer, bit for bit.
    """

    model: str
    alone: np.ndarray
    served: np.ndarray
    equal: bool

    @property
    def added(self) -> tuple[float, float, float]:
        """What serving adds, in milliseconds: the median of the rounds' differences, and its 95 % interval by bootstrap."""
        differences = self.served - self.alone
        resampled = np.random.default_rng(0).choice(differences, (_RESAMPLES, len(differences)))
        low, high = np.percentile(np.median(resampled, axis=1), (2.5, 97.5))
        return float(np.median(differences)), float(low), float(high)


def measure(repository: Path, rounds: int) -> list[Overhead]:
    """Serve a repository and measure every model in it that this toolkit published.

    Args:
        repository: A model repository.
        rounds: How many times each side takes its turn.

    Raises:
        ServerError: It cannot be served.
        ClientError: A model in it does not answer.
    """
    with Server(repository, ports=Ports(0, 0, 0)) as server:
        newest = [Repository(repository).latest(folder.name) for folder in served_models(repository)]
        published = [(folder, facts) for folder in newest if folder and (facts := manifest.read(folder))]
        return [_measure(server, folder, facts, rounds) for folder, facts in published]


def _measure(server: Server, folder: Path, facts: manifest.Manifest, rounds: int) -> Overhead:
    with Classifier(server.url, facts.model) as classifier:
        batch = classifier.prepare(sample_photographs()[0])[None]
        runtime = runtimes.load(FORMATS[facts.format].runtime, folder / facts.artifacts[0]["file"], {})
        turns = {"alone": lambda: runtime.run(batch), "served": lambda: classifier.infer(batch)}
        for turn in [*turns.values()] * _WARMUP_ROUNDS:
            _burst(turn)
        times = {name: np.empty(rounds) for name in turns}
        for index in range(rounds):
            # The one that goes first changes from round to round, so that a drifting machine favours neither.
            for name, turn in list(turns.items())[:: 1 if index % 2 else -1]:
                times[name][index] = _burst(turn)
        return Overhead(facts.model, **times, equal=bool(np.array_equal(runtime.run(batch), classifier.infer(batch))))


def _burst(run: Callable[[], object]) -> float:
    """The median latency of a burst without its first run, in milliseconds."""
    ends = [time.perf_counter()]
    for _ in range(_BURST):
        run()
        ends.append(time.perf_counter())
    return float(np.median(np.diff(ends)[1:]) * 1000)
