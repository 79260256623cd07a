"""Tuning: finds the configuration of a model with the highest throughput.

The latency may have a bound. The search changes one part of the configuration after the other, and
begins each step with the best setting so far. It needs far fewer trials than a grid of all
combinations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tritonclient.grpc as triton
import tritonclient.grpc.model_config_pb2 as pb
from google.protobuf import json_format

from seresnext101_triton.export import config
from seresnext101_triton.export.promotion import BACKUP_FILENAME, with_policy
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.load import LoadGenerator
from seresnext101_triton.perf.published import PublishedModel
from seresnext101_triton.perf.records import Load, Measurement
from seresnext101_triton.perf.serving import MeasuredServer
from seresnext101_triton.perf.settings import Confirmation, Setting, Trial, TuningOutcome
from seresnext101_triton.perf.turns import Comparison, Turn, take_turns
from seresnext101_triton.server.cores import usable_cores
from seresnext101_triton.server.versions import CONFIG_FILENAME, read_config

_DELAYS_US = (500, 2000, 5000)
_GPU_INSTANCES = (1, 2, 3, 4)
_CPU_INSTANCES = (1, 2, 4, 8, 16)
_OLD, _NEW = "as it was", "tuned"
_MINIMUM_GAIN = 1.02  # a setting replaces the best one so far if its score is this times as high

# The name of a step of the search, and the settings that it tries, given the best so far.
Step = tuple[str, Callable[[Setting], Iterable[Setting]]]


@dataclass(frozen=True)
class Tuning:
    """The result of a search.

    Attributes:
        trials: All trials in their order. The first is the old configuration.
        best: The trial with the highest score.
        confirmed: The old and the best configuration, measured again in turns. None if the old
            configuration is the best.
        grid: The number of trials that a full grid needs.
    """

    trials: list[Trial]
    best: Trial
    confirmed: Comparison | None
    grid: int

    @property
    def chosen(self) -> Setting | None:
        """The best setting if it is certainly faster than the old configuration, else None."""
        if self.confirmed is None or self.confirmed.ratio(_NEW).low <= 1:
            return None
        return self.best.setting

    @property
    def outcome(self) -> TuningOutcome:
        """The values that are stored."""
        confirmation = None
        if self.confirmed is not None:
            turns = {name: list(values) for name, values in self.confirmed.turns.items()}
            confirmation = Confirmation(**asdict(self.confirmed.ratio(_NEW)), turns=turns)
        return TuningOutcome(self.trials, self.chosen, self.grid, confirmation)


class Tuner:
    """Searches the best setting. The server must let clients load models with another config.

    Args:
        server: The server.
        repository: The repository that it serves.
        load: The load under which each setting is measured.
        p99_ms: The bound on the latency, in milliseconds. None means no bound.
        window_s: One third of the duration of a trial, in seconds. None means about 25 requests of
            one client.

    Raises:
        PerfError: The repository has no such model that this project published.
    """

    def __init__(
        self,
        server: MeasuredServer,
        repository: Path,
        load: Load,
        p99_ms: float | None,
        *,
        window_s: float | None = None,
    ) -> None:
        published = PublishedModel.find(repository, load.model)
        self._config = published.config
        self._format = published.format
        self._largest = config.largest_batch(published.config)
        self._gpu = published.on_gpu
        self._server = server
        self._repository = repository
        self._load = load
        self._bound_ms = p99_ms
        self._window_s = window_s

    @property
    def current(self) -> Setting:
        """The setting of the config in the repository."""
        threads = ""
        if parameter := self._format.thread_parameter:
            threads = self._config.parameters[parameter].string_value
        return Setting(
            instances=self._config.instance_group[0].count or 1,
            threads=int(threads or 0),
            max_batch=self._config.max_batch_size,
            delay_us=self._config.dynamic_batching.max_queue_delay_microseconds,
        )

    def search(
        self, rounds: int, after_trial: Callable[[Trial], object] = lambda trial: trial
    ) -> Tuning:
        """Search the best setting, then measure it again in turns with the old configuration.

        Args:
            rounds: The number of turns of each side in the confirmation.
            after_trial: A function that is called with each trial.

        Raises:
            AnalyzerFailed: perf_analyzer ended without a measurement.
        """
        with LoadGenerator(self._server.url, self._server.http_url) as generator:
            window_s = self._window_s or generator.window_s(self._load)

            def measure(setting: Setting) -> Measurement:
                self.apply(setting)
                return generator.measure_for(self._load, 3 * window_s)

            current, steps = self.current, self._steps()
            trials, best = explore(current, steps, measure, self._bound_ms, after_trial)
            if best.setting == current:
                return Tuning(trials, best, None, self._grid())
            contestants: dict[str, Turn] = {
                _OLD: lambda: measure(current).throughput,
                _NEW: lambda: measure(best.setting).throughput,
            }
            return Tuning(trials, best, take_turns(contestants, rounds), self._grid())

    def write(self, setting: Setting) -> None:
        """Write a setting into the model's config.pbtxt, and keep the old text for `undo`.

        Raises:
            RepositoryError: The repository cannot be written. It is unchanged.
        """
        with Repository(self._repository).exclusive() as publication:
            staged = publication.stage(self._load.model)
            old = (staged.folder / CONFIG_FILENAME).read_text(encoding="utf-8")
            if not (staged.folder / BACKUP_FILENAME).exists():
                staged.write(BACKUP_FILENAME, old)
            staged.write(CONFIG_FILENAME, config.to_text(self._config_with(setting)))
            publication.publish()

    def _grid(self) -> int:
        """The number of trials that all combinations need."""
        current = self.current
        batched = replace(current, max_batch=self._largest)
        sizes = len(list(self._batches(batched))) * (1 + len(_DELAYS_US))
        return len(self.parallelism(current)) * (sizes if current.max_batch else 1 + sizes)

    def _steps(self) -> Sequence[Step]:
        return (
            ("instances", self.parallelism),
            ("batcher", self.with_batcher),
            ("largest batch", self._batches),
            ("queue delay", self._delays),
        )

    def parallelism(self, best: Setting) -> list[Setting]:
        """The same setting with other numbers of instances and threads."""
        if self._gpu:
            return [replace(best, instances=count) for count in _GPU_INSTANCES]
        cores = usable_cores()
        pairs = [(count, cores // count) for count in _CPU_INSTANCES if count <= cores]
        # Two instances, both with threads for all cores: one computes while the other copies.
        pairs.append((2, cores))
        return [
            replace(best, instances=count, threads=threads if self._format.thread_parameter else 0)
            for count, threads in pairs
        ]

    def alternatives(self, current: Setting) -> list[Setting]:
        """A setting, and all that differ from it in instances, threads and batcher."""
        return [current, *self.parallelism(current), *self.with_batcher(current)]

    def with_batcher(self, best: Setting) -> list[Setting]:
        """All settings of `parallelism` with Triton's batcher, if the setting has none."""
        if best.max_batch:
            return []
        return self.parallelism(replace(best, max_batch=self._largest))

    def _batches(self, best: Setting) -> list[Setting]:
        if not best.max_batch:
            return []
        batches = dict.fromkeys((self._largest, self._largest // 2, self._largest // 4))
        return [replace(best, max_batch=batch) for batch in batches if batch >= self._load.batch]

    @staticmethod
    def _delays(best: Setting) -> list[Setting]:
        return [replace(best, delay_us=delay) for delay in _DELAYS_US if best.max_batch]

    def _config_with(self, setting: Setting) -> pb.ModelConfig:
        changed = pb.ModelConfig()
        changed.CopyFrom(self._config)
        largest = setting.max_batch
        if largest and not changed.max_batch_size:
            changed = config.with_batcher(changed, self._format)
        changed.instance_group[0].count = setting.instances
        if parameter := self._format.thread_parameter:
            changed.parameters[parameter].string_value = str(setting.threads)
        if not largest:
            return changed
        changed.max_batch_size = largest
        changed.dynamic_batching.max_queue_delay_microseconds = setting.delay_us
        for warmup in [each for each in changed.model_warmup if each.batch_size > largest]:
            changed.model_warmup.remove(warmup)
        if not any(each.batch_size == largest for each in changed.model_warmup):
            warmup = changed.model_warmup.add()
            warmup.CopyFrom(changed.model_warmup[0])
            warmup.name, warmup.batch_size = f"batch {largest}", largest
        return changed

    def apply(self, setting: Setting) -> None:
        """Let the server load the model with a setting. The repository does not change."""
        changed = self._config_with(setting)
        text = json_format.MessageToJson(changed, preserving_proto_field_name=True)
        with triton.InferenceServerClient(self._server.url) as client:
            client.load_model(self._load.model, config=text)


def explore(
    current: Setting,
    steps: Iterable[Step],
    measure: Callable[[Setting], Measurement],
    bound_ms: float | None,
    after_trial: Callable[[Trial], object],
) -> tuple[list[Trial], Trial]:
    """Try the current setting, then the settings of each step. No setting is tried twice.

    Args:
        current: The setting that is tried first.
        steps: The steps in their order. Each proposes settings from the best setting so far.
        measure: A function that measures a setting.
        bound_ms: The bound on the 99th percentile of the latency, in milliseconds. None means no
            bound.
        after_trial: A function that is called with each trial.

    Returns:
        All trials in their order, and the best.
    """
    trials: list[Trial] = []

    def attempt(step: str, setting: Setting) -> Trial:
        measured = measure(setting)
        p99_ms = measured.latency["p99"]
        within = bound_ms is None or p99_ms <= bound_ms
        trials.append(Trial(step, setting, measured.throughput, p99_ms, within))
        after_trial(trials[-1])
        return trials[-1]

    best = attempt("as it is", current)
    for step, candidates in steps:
        for setting in candidates(best.setting):
            if any(trial.setting == setting for trial in trials):
                continue
            if (trial := attempt(step, setting)).score > best.score * _MINIMUM_GAIN:
                best = trial
    return trials, best


def undo(repository: Path, model: str) -> None:
    """Restore the config of a model as it was before its first tuning.

    Raises:
        PerfError: The model was not tuned.
        RepositoryError: The repository cannot be written. It is unchanged.
    """
    backup = repository / model / BACKUP_FILENAME
    if not backup.exists():
        raise PerfError(
            f"{repository / model} holds no {BACKUP_FILENAME}: it was not tuned, or that was undone"
        )
    with Repository(repository).exclusive() as publication:
        staged = publication.stage(model)
        text = backup.read_text(encoding="utf-8")
        policy = read_config(staged.folder).version_policy
        staged.write(CONFIG_FILENAME, with_policy(text, policy))
        staged.write(BACKUP_FILENAME, None)
        publication.publish()
