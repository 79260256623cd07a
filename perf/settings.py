"""Settings of a model, and what a search for the best one has found."""

from __future__ import annotations

from dataclasses import dataclass

from seresnext101_triton.perf.turns import Ratio


@dataclass(frozen=True)
class Setting:
    """One configuration that tuning can try.

    Attributes:
        instances: The number of copies of the model that run at the same time.
        threads: The number of CPU threads of each; 0 lets the runtime decide.
        max_batch: The largest batch that the dynamic batcher forms.
        delay_us: The longest time a request waits for others to form a batch, in microseconds.
    """

    instances: int
    threads: int
    max_batch: int
    delay_us: int

    @property
    def short(self) -> str:
        """What tells the settings of a race apart: `2 x 1`, `1 x all, batches to 8`."""
        batches = f", batches to {self.max_batch}" if self.max_batch else ""
        return f"{self.instances} x {self.threads or 'all'}{batches}"

    def __str__(self) -> str:
        plural = "s" if self.instances > 1 else ""
        batches = f"batches to {self.max_batch}, delay {self.delay_us} us"
        return (
            f"{self.instances} instance{plural} x {self.threads or 'all'} threads, "
            f"{batches if self.max_batch else 'no batches'}"
        )


@dataclass(frozen=True)
class Trial:
    """A setting with the values that were measured for it.

    Attributes:
        step: The step of the search that proposed the setting.
        throughput: Images per second.
        p99_ms: The 99th percentile of the latency, in milliseconds.
        within: Whether `p99_ms` is within the bound.
    """

    step: str
    setting: Setting
    throughput: float
    p99_ms: float
    within: bool

    @property
    def score(self) -> float:
        """The throughput if the latency is within its bound, else 0."""
        return self.throughput if self.within else 0.0


@dataclass(frozen=True)
class Confirmation(Ratio):
    """The ratio of the tuned configuration to the old one, measured again.

    Attributes:
        turns: Images per second of each round, by configuration.
    """

    turns: dict[str, list[float]]


@dataclass(frozen=True)
class TuningOutcome:
    """The result of a search.

    Attributes:
        trials: All trials in their order. The first is the old configuration.
        chosen: The setting to write. None if the old configuration stays.
        grid: The number of trials that a full grid needs.
        confirmed: The confirmation of the best trial. None if the old configuration is the best.
    """

    trials: list[Trial]
    chosen: Setting | None
    grid: int
    confirmed: Confirmation | None


@dataclass(frozen=True)
class Contestant:
    """A model with a setting that was compared with others to find the best.

    Attributes:
        model: The name of the model.
        setting: The setting.
        loss: The accuracy that its artifact lost in its gate, as a share.
        throughput: Images per second of each round.
        p99_ms: The 99th percentile of the latency in each round, in milliseconds.
        ratio: Its throughput divided by that of the best, in the rounds that both took part in.
            None for the best, and for who left after one round.
        left: Why it cannot be the best; empty if it can.
    """

    model: str
    setting: Setting
    loss: float
    throughput: list[float]
    p99_ms: list[float]
    ratio: Ratio | None
    left: str


@dataclass(frozen=True)
class AdviceOutcome:
    """The result of a race.

    Attributes:
        contestants: The best first, then the others that were not refuted, then the rest.
    """

    contestants: list[Contestant]

    @property
    def best(self) -> Contestant:
        """The one to serve."""
        return self.contestants[0]

    @property
    def equals(self) -> list[Contestant]:
        """Those of which it is not certain that they are slower than the best."""
        return [each for each in self.contestants[1:] if not each.left]
