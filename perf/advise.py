"""Advice: which of the models of one network this machine serves best, and with which setting.

The models race. In every round each takes one turn, so that a change of the machine's speed affects
all of them. Who is certainly slower than the leader leaves the race, and the time goes to those who
are left. First the models run as they are published. Then those that are left run with other
numbers of instances and threads, and with Triton's batcher.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from seresnext101_triton.export.manifest import Manifest
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.load import LoadGenerator
from seresnext101_triton.perf.published import PublishedModel
from seresnext101_triton.perf.records import Load
from seresnext101_triton.perf.serving import serving
from seresnext101_triton.perf.settings import AdviceOutcome, Contestant, Setting
from seresnext101_triton.perf.tune import Tuner
from seresnext101_triton.perf.turns import Ratio, ratio_of
from seresnext101_triton.server.cores import usable_cores

# Who leaves: the best turn so far is below this share of the leader's worst one. Equal turns can
# differ by a third, and one turn by more. From the third round on, an interval decides as well.
_FAR_BEHIND_AFTER_ONE, _FAR_BEHIND = 0.5, 0.85
_LEAST_ROUNDS, _MOST_ROUNDS = 3, 10


@dataclass(frozen=True)
class AdviceOptions:
    """What the best model must keep, and how long it is looked for.

    Attributes:
        name: The common part of the models' names.
        concurrency: The number of requests in flight, with one image in each.
        p99_ms: The bound on the 99th percentile of the latency, in milliseconds. None is no bound.
        max_loss: The largest loss of accuracy, as a share from 0 to 1.
        minutes: The time for the race. At least three rounds with all settings are run.
        seconds: The duration of one turn.
    """

    name: str = "seresnext101"
    concurrency: int = 8
    p99_ms: float | None = None
    max_loss: float = 1.0
    minutes: float = 4.0
    seconds: float = 2.0


@dataclass
class Racer:
    """A model with a setting, and the values of its turns.

    Attributes:
        model: The name of the model.
        setting: The setting.
        throughput: Images per second of each round.
        p99_ms: The 99th percentile of the latency in each round, in milliseconds.
        ratio: Its throughput divided by that of the leader, at the end or when it left.
        left: Why it left the race; empty if it did not.
    """

    model: str
    setting: Setting
    throughput: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    ratio: Ratio | None = None
    left: str = ""

    @property
    def speed(self) -> float:
        """The geometric mean of its throughput."""
        return float(np.exp(np.log(self.throughput).mean()))


@dataclass(frozen=True)
class Subject:
    """A model that can be served here.

    Attributes:
        model: Its name.
        loss: The accuracy that its artifact lost, as a share.
    """

    model: str
    loss: float


def subjects(repository: Path, options: AdviceOptions) -> tuple[list[Subject], list[str]]:
    """The models of a repository that may be the best, and a line for each that may not.

    Raises:
        PerfError: There is none, or they are not of the same weights.
    """
    found: dict[str, Manifest] = {}
    refused = []
    for model in Repository(repository).models():
        try:
            published = PublishedModel.find(repository, model)
        except PerfError:  # not ours, or one that only decodes images for another
            continue
        facts = published.manifest
        if not model.startswith(f"{options.name}_"):
            continue
        if published.on_gpu:
            refused.append(f"{model}: its config asks for a GPU")
        elif facts.unproven:
            refused.append(f"{model}: it is unproven")
        elif loss_of(facts) > options.max_loss:
            refused.append(f"{model}: it loses {loss_of(facts):.1%} of the accuracy")
        else:
            found[model] = facts
    if len({facts.weights.sha256 for facts in found.values()}) > 1:
        raise PerfError(
            f"{', '.join(found)} have different weights, and only models of one network can be "
            "compared: name another repository"
        )
    if not found:
        reasons = f" ({'; '.join(refused)})" if refused else ""
        raise PerfError(
            f"{repository} holds no model {options.name}_... that could be advised{reasons}"
        )
    return [Subject(model, loss_of(facts)) for model, facts in found.items()], refused


def loss_of(facts: Manifest) -> float:
    """The accuracy that an artifact lost in its gate, as a share.

    If the true classes were not known, it is the share of answers with another first class.
    """
    parity = facts.parity
    if parity.get("accuracy") is not None:
        return max(0.0, float(parity["network_accuracy"] - parity["accuracy"]))
    return 1.0 - float(parity["top1"])


def advise(
    repository: Path,
    models: Sequence[Subject],
    options: AdviceOptions,
    note: Callable[[str], object] = lambda line: line,
) -> AdviceOutcome:
    """Let the models race on a server on this machine.

    Args:
        repository: The repository. It does not change.
        models: The models, from `subjects`.
        options: What the best must keep.
        note: A function that is called with a line after each round.

    Raises:
        PerfError: None keeps the bound on the latency.
        AnalyzerFailed: perf_analyzer ended without a measurement.
    """
    names = [subject.model for subject in models]
    deadline = time.monotonic() + 60 * options.minutes
    with (
        serving(repository, names, allow=["model-repository"]) as server,
        LoadGenerator(server.url) as generator,
    ):
        loads = {name: Load(name, concurrency=options.concurrency) for name in names}
        tuners = {name: Tuner(server, repository, loads[name], options.p99_ms) for name in names}
        applied = {name: tuner.current for name, tuner in tuners.items()}

        def run(racer: Racer) -> None:
            if applied[racer.model] != racer.setting:
                tuners[racer.model].apply(racer.setting)
                applied[racer.model] = racer.setting
            measured = generator.measure_for(loads[racer.model], options.seconds)
            racer.throughput.append(measured.throughput)
            racer.p99_ms.append(measured.latency["p99"])

        first = [Racer(name, applied[name]) for name in names]
        for _ in race(first, run, options.p99_ms, note, rounds=2):
            pass
        second = [
            Racer(racer.model, setting)
            for racer in first
            if not racer.left
            for setting in different(tuners[racer.model].alternatives(racer.setting))
        ]
        for number in race(second, run, options.p99_ms, note, rounds=_MOST_ROUNDS):
            if number >= _LEAST_ROUNDS and time.monotonic() > deadline:
                break
    losses = {subject.model: subject.loss for subject in models}
    return outcome([racer for racer in first if racer.left], second, losses, options.p99_ms)


def different(settings: Iterable[Setting]) -> list[Setting]:
    """The settings without those that are the same for a runtime that takes all cores by itself."""
    cores = usable_cores()
    unique: dict[Setting, Setting] = {}
    for setting in settings:
        unique.setdefault(replace(setting, threads=setting.threads or cores), setting)
    return list(unique.values())


def race(
    racers: Sequence[Racer],
    run: Callable[[Racer], object],
    p99_ms: float | None,
    note: Callable[[str], object],
    *,
    rounds: int,
) -> Iterator[int]:
    """Run one round after the other, and yield its number, until one racer is left.

    Args:
        racers: Those who race. They have no turns yet.
        run: A function that gives a racer one turn.
        p99_ms: The bound on the latency.
        note: A function that is called with a line after each round.
        rounds: The largest number of rounds.
    """
    for number in range(1, rounds + 1):
        running = [racer for racer in racers if not racer.left]
        if not running:  # all left an earlier race
            return
        for racer in running if number % 2 else running[::-1]:
            run(racer)
        leader = judge(running, p99_ms)
        remaining = sum(not racer.left for racer in running)
        note(
            f"round {number}: {leader.model} ({leader.setting.short}) leads with "
            f"{leader.speed:.1f} images/s; {remaining} of {len(running)} go on"
        )
        yield number
        if not remaining or (remaining == 1 and number > 1):
            return


def judge(running: Sequence[Racer], p99_ms: float | None) -> Racer:
    """Find the leader of a round, and let those leave who cannot win any more.

    Args:
        running: Those who took part in every round so far.
        p99_ms: The bound on the latency. Who was over it in every round leaves.
    """
    within = [racer for racer in running if _keeps(racer, p99_ms)]
    leader = max(within or running, key=lambda racer: racer.speed)
    rounds = len(leader.throughput)
    for racer in running:
        if racer is not leader and rounds >= _LEAST_ROUNDS:
            racer.ratio = ratio_of(racer.throughput, leader.throughput)
        least = _FAR_BEHIND if rounds > 1 else _FAR_BEHIND_AFTER_ONE
        is_far_behind = max(racer.throughput) < least * min(leader.throughput)
        if p99_ms is not None and rounds > 1 and min(racer.p99_ms) > p99_ms:
            racer.left = f"p99 over {p99_ms:g} ms"
        elif is_far_behind or (racer.ratio and racer.ratio.high < 1):
            racer.left = f"slower after {rounds} round{'s' if rounds > 1 else ''}"
    leader.ratio = None
    return leader


def outcome(
    early: Sequence[Racer], racers: Sequence[Racer], losses: dict[str, float], p99_ms: float | None
) -> AdviceOutcome:
    """What a race has shown.

    The best of those that are left, none of which is certainly slower than the leader, is the one
    that lost the least accuracy. Of several, it is the fastest.

    Args:
        early: Those who left before other settings were tried.
        racers: The others, after their last round.
        losses: The lost accuracy of each model.
        p99_ms: The bound on the latency.

    Raises:
        PerfError: None keeps the bound.
    """
    finishers = [racer for racer in racers if not racer.left and _keeps(racer, p99_ms)]
    if not finishers:
        nearest = min((*early, *racers), key=lambda racer: np.median(racer.p99_ms))
        raise PerfError(
            f"no model keeps a p99 of {p99_ms:g} ms under this load. The nearest is {nearest.model}"
            f" with {np.median(nearest.p99_ms):.0f} ms: allow more with `p99_ms`, or send fewer "
            "requests at once with `concurrency`"
        )
    best = min(finishers, key=lambda racer: (losses[racer.model], -racer.speed))
    others = [racer for racer in (*racers, *early) if racer is not best]
    others.sort(key=lambda racer: (racer in finishers, racer.speed), reverse=True)
    for racer in others:
        common = min(len(racer.throughput), len(best.throughput))
        if racer not in early and common >= _LEAST_ROUNDS:
            racer.ratio = ratio_of(racer.throughput[:common], best.throughput[:common])
    best.ratio = None
    rows = [
        Contestant(
            racer.model,
            racer.setting,
            losses[racer.model],
            racer.throughput,
            racer.p99_ms,
            racer.ratio,
            racer.left or ("" if _keeps(racer, p99_ms) else f"p99 over {p99_ms:g} ms"),
        )
        for racer in (best, *others)
    ]
    return AdviceOutcome(rows)


def _keeps(racer: Racer, p99_ms: float | None) -> bool:
    return p99_ms is None or float(np.median(racer.p99_ms)) <= p99_ms
