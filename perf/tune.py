"""The best configuration of a model on this machine, under a bound on its latency, found with fewer runs than a grid takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tritonclient.grpc as triton
import tritonclient.grpc.model_config_pb2 as pb
from google.protobuf import json_format

from export import config, manifest
from export.formats import FORMATS
from export.repository import CONFIG_FILENAME, Repository
from perf.compare import Comparison, compare
from perf.errors import PerfError
from perf.load import Generator, Load
from perf.serving import Subject
from server.cores import usable_cores

KEPT_FILENAME = "config.pbtxt.before-tuning"
_DELAYS_US = (500, 2000, 5000)
_GPU_INSTANCES = (1, 2, 3, 4)
_WORTH = 1.02  # a setting replaces a simpler one if it gives at least so many times as much


@dataclass(frozen=True)
class Setting:
    """What is searched.

    Attributes:
        instances: Copies of the model that run at the same time.
        threads: CPU threads of each; 0 leaves it to the runtime.
        max_batch: Largest batch that the batcher forms.
        delay_us: How long it may hold a request back for that, in microseconds.
    """

    instances: int
    threads: int
    max_batch: int
    delay_us: int

    def __str__(self) -> str:
        threads = f" x {self.threads or 'all'} threads"
        return f"{self.instances} instance{'s' * (self.instances > 1)}{threads}, batches to {self.max_batch}, delay {self.delay_us} us"


@dataclass(frozen=True)
class Trial:
    """A setting and what it gave.

    Attributes:
        step: Which question it answered.
        within: Whether its p99 kept the bound.
    """

    step: str
    setting: Setting
    throughput: float
    p99_ms: float
    within: bool

    @property
    def score(self) -> float:
        """Images a second, if the bound was kept."""
        return self.throughput if self.within else 0.0


@dataclass(frozen=True)
class Tuning:
    """The outcome of a search.

    Attributes:
        trials: In their order; the first is the configuration as it was.
        best: The one chosen.
        confirmed: The choice against the old configuration, measured anew by turns; None where the old one is the best.
        grid: Runs that every combination would have taken.
    """

    trials: list[Trial]
    best: Trial
    confirmed: Comparison | None
    grid: int

    @property
    def chosen(self) -> Setting | None:
        """The setting that is certainly faster than the old configuration and keeps the bound; None where that is the old one."""
        if self.confirmed is None or self.confirmed.ratio("tuned").low <= 1:
            return None
        return self.best.setting


class Tuner:
    """Searches on a server that lets models be loaded anew.

    Args:
        subject: The server.
        repository: That it serves.
        load: What it is asked while a setting is tried.
        p99_ms: The bound, in milliseconds; None is none.

    Raises:
        PerfError: This toolkit did not publish the model there.
    """

    def __init__(self, subject: Subject, repository: Path, load: Load, p99_ms: float | None, *, window_s: float | None = None) -> None:
        folder = Repository(repository).latest(load.model)
        facts = manifest.read(folder) if folder else None
        if folder is None or facts is None:
            raise PerfError(f"{repository} holds no model {load.model} that this toolkit published")
        self._config = config.from_text((folder.parent / CONFIG_FILENAME).read_text(encoding="utf-8"))
        self._thread_parameter = FORMATS[facts.format].thread_parameter
        self._batched = self._config.max_batch_size > 0
        self._gpu = self._config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU
        self._subject = subject
        self._load = load
        self._bound = p99_ms
        self._window_s = window_s

    @property
    def current(self) -> Setting:
        """Of the config in the repository."""
        batching = self._config.dynamic_batching
        threads = self._config.parameters[self._thread_parameter].string_value if self._thread_parameter else ""
        return Setting(
            self._config.instance_group[0].count or 1,
            int(threads or 0),
            self._config.max_batch_size,
            batching.max_queue_delay_microseconds,
        )

    def search(self, rounds: int, tried: Callable[[Trial], None] = lambda trial: None) -> Tuning:
        """Try one question after the other, each from the best answer so far, and confirm the last.

        Args:
            rounds: Turns of each side in the confirmation.
            tried: Is called after every trial.

        Raises:
            AnalyzerFailed: perf_analyzer ended without a measurement.
        """
        with Generator(self._subject.url, self._subject.http_url) as generator:
            window_s = self._window_s or generator.window_s(self._load)
            trials: list[Trial] = []

            def attempt(step: str, setting: Setting) -> Trial:
                self._apply(setting)
                measured = generator.turn(self._load, 3 * window_s)
                within = self._bound is None or measured.latency["p99"] <= self._bound
                trials.append(Trial(step, setting, measured.throughput, measured.latency["p99"], within))
                tried(trials[-1])
                return trials[-1]

            best = attempt("as it is", self.current)
            for step, candidates in self._questions():
                for setting in candidates(best.setting):
                    if any(trial.setting == setting for trial in trials):
                        continue
                    if (trial := attempt(step, setting)).score > best.score * _WORTH:
                        best = trial
            grid = len(list(self._parallelism(self.current)))
            if self._batched:
                grid *= len(list(self._batches(self.current))) * (1 + len(_DELAYS_US))
            if best.setting == self.current:
                return Tuning(trials, best, None, grid)

            def turn(setting: Setting) -> float:
                self._apply(setting)
                return generator.turn(self._load, 3 * window_s).throughput

            contestants = {"as it was": lambda: turn(self.current), "tuned": lambda: turn(best.setting)}
            return Tuning(trials, best, compare(contestants, rounds), grid)

    def write(self, repository: Path, setting: Setting) -> None:
        """Put a setting into the model's config.pbtxt, as an export does, and keep the old text for `undo`.

        Raises:
            RepositoryError: The repository cannot be written, and is as it was.
        """
        with Repository(repository).exclusive(), Repository(repository).stage(self._load.model) as staged:
            old = (staged.folder / CONFIG_FILENAME).read_text(encoding="utf-8")
            if not (staged.folder / KEPT_FILENAME).exists():
                staged.write(KEPT_FILENAME, old)
            staged.write(CONFIG_FILENAME, config.to_text(self._with(setting)))
            staged.publish()

    def _questions(self) -> Iterable[tuple[str, Callable[[Setting], Iterable[Setting]]]]:
        batching = (("largest batch", self._batches), ("queue delay", self._delays)) if self._batched else ()
        return (("instances", self._parallelism), *batching)

    def _parallelism(self, best: Setting) -> Iterable[Setting]:
        if self._gpu:
            return [replace(best, instances=count) for count in _GPU_INSTANCES]
        cores = usable_cores()
        counts = [count for count in (1, 2, 4, 8, 16) if count <= cores]
        settings = [replace(best, instances=count, threads=cores // count if self._thread_parameter else 0) for count in counts]
        return [*settings, replace(best, instances=2, threads=cores if self._thread_parameter else 0)]

    def _batches(self, best: Setting) -> Iterable[Setting]:
        largest = self._config.max_batch_size
        return [
            replace(best, max_batch=batch) for batch in dict.fromkeys((largest, largest // 2, largest // 4)) if batch >= self._load.batch
        ]

    @staticmethod
    def _delays(best: Setting) -> Iterable[Setting]:
        return [replace(best, delay_us=delay) for delay in _DELAYS_US]

    def _with(self, setting: Setting) -> pb.ModelConfig:
        changed = pb.ModelConfig()
        changed.CopyFrom(self._config)
        changed.instance_group[0].count = setting.instances
        if self._thread_parameter:
            changed.parameters[self._thread_parameter].string_value = str(setting.threads)
        if not self._batched:
            return changed
        changed.max_batch_size = setting.max_batch
        changed.dynamic_batching.max_queue_delay_microseconds = setting.delay_us
        for warmup in [each for each in changed.model_warmup if each.batch_size > setting.max_batch]:
            changed.model_warmup.remove(warmup)
        if not any(each.batch_size == setting.max_batch for each in changed.model_warmup):
            warmup = changed.model_warmup.add()
            warmup.CopyFrom(changed.model_warmup[0])
            warmup.name, warmup.batch_size = f"batch {setting.max_batch}", setting.max_batch
        return changed

    def _apply(self, setting: Setting) -> None:
        with triton.InferenceServerClient(self._subject.url) as client:
            client.load_model(self._load.model, config=json_format.MessageToJson(self._with(setting), preserving_proto_field_name=True))


def undo(repository: Path, model: str) -> None:
    """Put back the config that was there before tuning.

    Raises:
        PerfError: The model was not tuned.
        RepositoryError: The repository cannot be written, and is as it was.
    """
    kept = repository / model / KEPT_FILENAME
    if not kept.exists():
        raise PerfError(f"{repository / model} holds no {KEPT_FILENAME}: it was not tuned, or that was undone")
    with Repository(repository).exclusive(), Repository(repository).stage(model) as staged:
        staged.write(CONFIG_FILENAME, kept.read_text(encoding="utf-8"))
        staged.write(KEPT_FILENAME, None)
        staged.publish()


def to_record(tuning: Tuning) -> dict[str, object]:
    """What is stored of a search."""
    ratio = tuning.confirmed and tuning.confirmed.ratio("tuned")
    return {
        "trials": [asdict(trial) for trial in tuning.trials],
        "chosen": asdict(tuning.chosen) if tuning.chosen else None,
        "grid": tuning.grid,
        "confirmed": None if ratio is None or tuning.confirmed is None else {**asdict(ratio), "turns": dict(tuning.confirmed.turns)},
    }
