"""What the parity gate measures of an artifact, and the reasons to refuse it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from seresnext101_triton.export.yardstick import MULTIPLE
from seresnext101_triton.server.reference import Reference

# If the network's own answers are farther than this from float64, there is a warning.
ILL_CONDITIONED = 1e-3


@dataclass(frozen=True)
class Distances:
    """One input on which an artifact's error is over the bound, compared with float64.

    All numbers are relative errors of the scores.

    Attributes:
        artifact: The error of the artifact's answer, the worst over the batch sizes.
        eager: The error of the eager network's own answer in the artifact's precision. None in a
            precision that is judged by classes; `artifact` is then the error against FP32.
        neighbours: The difference between the artifact's answer for this input alone and its answer
            in the maximum batch.
        allowed: The largest allowed value of `artifact` and of `neighbours`.
    """

    artifact: float
    eager: float | None
    neighbours: float
    allowed: float

    @property
    def excess(self) -> float:
        """The larger of the two errors, divided by the allowed error."""
        return max(self.artifact, self.neighbours) / self.allowed


@dataclass(frozen=True)
class Parity:
    """How far an artifact's answers are from the network's.

    Scores are the logits, or the log-probabilities if the model serves probabilities.

    Attributes:
        samples: How many different inputs were compared.
        batches: The batch sizes at which each input was run.
        relative_error: The largest absolute error of a sample's scores, divided by the largest
            absolute score of that sample. The worst value over all samples and batch sizes.
        max_abs_error: The largest absolute error of the output tensor.
        mean_abs_error: The mean absolute error of the output tensor.
        cosine: The smallest cosine between a sample's scores and the network's.
        top1: The share of answers with the network's first class. A class whose score differs by
            at most twice the allowed error counts as this class, except in a precision that is
            judged by classes.
        top5: The share of answers with the network's first five classes in the same order. In a
            precision that is judged by classes: the share of answers whose first five classes
            contain the network's first class.
        neighbour_error: The same as `relative_error`, but between a sample's answer alone and its
            answer in the maximum batch.
        worst: The input and the batch size with the largest error.
        bound: If `relative_error` and `neighbour_error` are at most this, the artifact is not
            compared with float64.
        device: The device on which the artifact ran, `cpu` or `cuda:N`.
        least_top1: The smallest allowed value of `top1`.
        least_top5: The smallest allowed value of `top5`.
        accuracy: The share of answers whose first class is the true class. None if the true classes
            are not known.
        network_accuracy: The same share for the network's own answers.
        least_accuracy: The smallest allowed value of `accuracy`.
        float64: The inputs whose error is over the bound, by name.
        allow_error: The bound that the user set with `allow_error`. None if the user set none.
        reference: What the artifact answered for a photograph. None if the same artifact may answer
            otherwise on another processor, because its network is ill-conditioned.
    """

    samples: int
    batches: tuple[int, ...]
    relative_error: float
    max_abs_error: float
    mean_abs_error: float
    cosine: float
    top1: float
    top5: float
    neighbour_error: float
    worst: str
    bound: float
    device: str
    least_top1: float = 1.0
    least_top5: float = 1.0
    accuracy: float | None = None
    network_accuracy: float | None = None
    least_accuracy: float = 0.0
    float64: Mapping[str, Distances] = field(default_factory=dict)
    allow_error: float | None = None
    reference: Reference | None = None

    @property
    def failures(self) -> list[str]:
        """The reasons why the artifact must not be published."""
        checks = {
            f"top-1 agrees for {self.top1:.1%} only{self._way_out}": self.top1 < self.least_top1,
            f"top-5 agrees for {self.top5:.1%} only": self.top5 < self.least_top5,
        }
        if self.accuracy is not None:
            lost = (
                f"{self.accuracy:.1%} are classified as they should be, "
                f"of {self.network_accuracy:.1%} by the network"
            )
            checks[lost] = self.accuracy < self.least_accuracy
        return self._too_far() + [message for message, failed in checks.items() if failed]

    def _too_far(self) -> list[str]:
        """Messages about errors that are larger than allowed.

        All answers are finite here: other answers have raised an error before.
        """
        refused = {name: found for name, found in self.float64.items() if not found.excess <= 1}
        if not refused:
            return []
        messages = []
        if any(not found.artifact <= found.allowed for found in refused.values()):
            messages.append(
                f"relative error {self.relative_error:.1e} is over {self.bound:.0e}, "
                f"worst for {self.worst}"
            )
        if any(not found.neighbours <= found.allowed for found in refused.values()):
            messages.append(
                f"an answer depends on its batch neighbours, by {self.neighbour_error:.1e}"
            )
        name = max(refused, key=lambda name: refused[name].excess)
        found = refused[name]
        if found.eager is None:
            return messages
        own = (
            f"on {name} the network's own rounding is {found.eager:.1e} from float64, "
            f"and the artifact {found.artifact:.1e}"
        )
        if found.eager <= self.bound:
            return [*messages, f"{own}: the artifact is wrong"]
        way_out = 2 * max(self.relative_error, self.neighbour_error)
        return [
            *messages,
            f"{own}: this network is ill-conditioned on this input, and the artifact is more than "
            f"{MULTIPLE:.0f} times as far off. If you can live with that, "
            f"`allow_error={way_out:.0e}` publishes it",
        ]

    @property
    def warnings(self) -> list[str]:
        """What the user should know about the network itself."""
        name, own = max(
            ((name, found.eager or 0.0) for name, found in self.float64.items()),
            key=lambda pair: pair[1],
            default=("", 0.0),
        )
        if own <= max(ILL_CONDITIONED, self.bound):
            return []
        return [
            f"this network's own rounding is off by {own:.1e} on the input {name!r}: its weights "
            "are ill-conditioned, and the same input is answered differently by different "
            "processors, batch sizes and runtimes"
        ]

    @property
    def _way_out(self) -> str:
        if self.least_top1 == 1:
            return ""
        return (
            f", and {self.least_top1:.1%} are demanded; give more images, "
            "or leave the worst layers out with `keep_fp32=auto`"
        )

    def to_json(self) -> dict[str, Any]:
        """The values as the manifest has them."""
        return asdict(self) | {"warnings": self.warnings}
