"""The accuracy of served models on images with known classes, and where two models differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

from seresnext101_triton.client.classifier import Classifier
from seresnext101_triton.client.decoding import Prediction
from seresnext101_triton.client.pipeline import Answer, StreamOptions

_Z_95 = NormalDist().inv_cdf(0.975)  # two-sided


@dataclass(frozen=True)
class Share:
    """A share with its 95 % confidence interval.

    The interval is Wilson's score interval, which is right for small counts and near 0 and 1 too.

    Attributes:
        hits: How many have the property.
        count: How many there are.
    """

    hits: int
    count: int

    @property
    def value(self) -> float:
        """The share, in [0, 1]; NaN if there is nothing to count."""
        return self.hits / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the interval, in [0, 1]."""
        if not self.count:
            return 0.0, 1.0
        square = _Z_95**2 / self.count
        middle = (self.value + square / 2) / (1 + square)
        half = (
            _Z_95
            / (1 + square)
            * math.sqrt(self.value * (1 - self.value) / self.count + square / (4 * self.count))
        )
        # Rounding may put an end on the wrong side of a share that is 0 or 1.
        return max(0.0, min(middle - half, self.value)), min(1.0, max(middle + half, self.value))


@dataclass(frozen=True)
class Disagreement:
    """One image for which two models name different classes first."""

    image: str
    first: Prediction
    second: Prediction

    @property
    def weight(self) -> float:
        """The smaller one of the two probabilities. The images with the largest ones are shown."""
        return min(self.first.probability, self.second.probability)


@dataclass(frozen=True)
class Evaluation:
    """The answers of one model.

    Attributes:
        model: Name of the model.
        version: Version of the model.
        truth: Each image and the index of its class.
        predictions: The predictions for each answered image, most likely first.
        failed: Each image without predictions, and the reason.
        inexact: The image options because of which the inputs are not exact.
    """

    model: str
    version: str
    truth: dict[str, int]
    predictions: dict[str, list[Prediction]]
    failed: dict[str, str]
    inexact: list[str] = field(default_factory=list)

    def accuracy(self, top: int) -> Share:
        """The share of answered images whose class is among the first `top` predictions."""
        hits = sum(
            self.truth[image] in [one.index for one in found[:top]]
            for image, found in self.predictions.items()
        )
        return Share(hits, len(self.predictions))


def _ignore(_answer: Answer) -> None:
    """What happens to an answer that nobody else wants."""


def evaluate(
    classifier: Classifier,
    truth: dict[str, int],
    options: StreamOptions = StreamOptions(),
    on_answer: Callable[[Answer], None] = _ignore,
) -> Evaluation:
    """Ask a model for the five most likely classes of every image.

    Args:
        classifier: The classifier.
        truth: Images and the index of their class, as `seresnext101_triton.client.truth.read_truth`
            returns them.
        options: How many images are in a request, and how many requests are in flight.
        on_answer: Is called with every answer.

    Raises:
        ServerUnreachable: No server answers any more.
    """
    model, inexact = classifier.model, classifier.inexact
    evaluation = Evaluation(model.name, model.version, truth, {}, {}, inexact)
    for answer in classifier.stream(truth, top=5, batch=options.batch, in_flight=options.in_flight):
        if answer.error:
            evaluation.failed[str(answer.image)] = str(answer.error)
        else:
            evaluation.predictions[str(answer.image)] = answer.predictions
        on_answer(answer)
    return evaluation


def agreement(first: Evaluation, second: Evaluation) -> Share:
    """The share of images for which two models name the same class first."""
    common = first.predictions.keys() & second.predictions.keys()
    return Share(
        sum(
            first.predictions[image][0].index == second.predictions[image][0].index
            for image in common
        ),
        len(common),
    )


def disagreements(first: Evaluation, second: Evaluation, count: int) -> Sequence[Disagreement]:
    """The images on which two models disagree most, largest disagreement first."""
    pairs = [
        Disagreement(image, found[0], second.predictions[image][0])
        for image, found in first.predictions.items()
        if image in second.predictions and found[0].index != second.predictions[image][0].index
    ]
    return sorted(pairs, key=lambda pair: (-pair.weight, pair.image))[:count]
