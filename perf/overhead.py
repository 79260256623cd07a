"""The time that a server adds to a single request: the same artifact alone and over gRPC."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.published import PublishedModel
from seresnext101_triton.perf.turns import take_turns
from seresnext101_triton.server import runtimes
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.models import served_models
from seresnext101_triton.server.needs import artifact_models
from seresnext101_triton.server.ports import Ports

# A turn is a burst of requests, one after the other, as a busy client sends them. The first request
# of a burst is not counted: threads of the other side may still be active, and its own threads
# must wake up.
_BURST = 4
_WARMUP_ROUNDS = 2
_RESAMPLES = 2000


@dataclass(frozen=True)
class Overhead:
    """The latencies of one model at batch 1, in milliseconds.

    Attributes:
        model: The name of the model.
        alone: The median latency of each burst of the runtime in this process.
        served: The median latency of each burst over gRPC.
        equal: Whether both gave the same answer, bit for bit.
    """

    model: str
    alone: Sequence[float]
    served: Sequence[float]
    equal: bool

    @property
    def added(self) -> tuple[float, float, float]:
        """The time that the server adds, in milliseconds.

        It is the median of the rounds' differences, with the lower and the upper end of its 95 %
        interval by bootstrap.
        """
        differences = np.asarray(self.served) - np.asarray(self.alone)
        generator = np.random.default_rng(0)
        resampled = generator.choice(differences, (_RESAMPLES, len(differences)))
        low, high = np.percentile(np.median(resampled, axis=1), (2.5, 97.5))
        return float(np.median(differences)), float(low), float(high)


def measure_overhead(repository: Path, rounds: int) -> list[Overhead]:
    """Serve a repository, and measure every model in it that this toolkit published.

    Args:
        repository: The model repository.
        rounds: The number of turns of each side.

    Raises:
        ServerError: The repository cannot be served.
        ClientError: A model does not answer.
    """
    with Server(repository, ports=Ports(0, 0, 0)) as server:
        names = artifact_models(served_models(repository))
        models = [(name, _published(repository, name)) for name in names]
        return [_measure(server.url, name, model, rounds) for name, model in models if model]


def _published(repository: Path, name: str) -> PublishedModel | None:
    try:
        return PublishedModel.find(repository, name)
    except PerfError:
        return None


def _measure(url: str, name: str, model: PublishedModel, rounds: int) -> Overhead:
    with Classifier(url, name) as classifier:
        batch = classifier.prepare(sample_photographs()[0])[None]
        runtime = runtimes.load(model.format.runtime, model.artifact, {})
        alone, served = partial(runtime.run, batch), partial(classifier.infer, batch)
        contestants = {"alone": partial(_burst, alone), "served": partial(_burst, served)}
        turns = take_turns(contestants, rounds, warmup_rounds=_WARMUP_ROUNDS).turns
        equal = bool(np.array_equal(alone(), served()))
        return Overhead(name, turns["alone"], turns["served"], equal)


def _burst(run: Callable[[], object]) -> float:
    """The median latency of a burst without its first request, in milliseconds."""
    ends = [time.perf_counter()]
    for _ in range(_BURST):
        run()
        ends.append(time.perf_counter())
    return float(np.median(np.diff(ends)[1:]) * 1000)
