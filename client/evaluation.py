"""How accurate served models are, on images whose classes are known, and where two of them differ."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.classifier import Classifier
from client.decoding import Prediction
from client.errors import ClientError, ImageError
from client.sources import expand

_Z_95 = 1.959964  # of the standard normal distribution, two-sided


@dataclass(frozen=True)
class Share:
    """A share with its 95 % confidence interval by Wilson's score, which holds for small counts and near 0 and 1 too."""

    hits: int
    count: int

    @property
    def value(self) -> float:
        """In [0, 1]."""
        return self.hits / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Its ends, in [0, 1]."""
        if not self.count:
            return 0.0, 1.0
        square = _Z_95**2 / self.count
        middle = (self.value + square / 2) / (1 + square)
        half = _Z_95 / (1 + square) * math.sqrt(self.value * (1 - self.value) / self.count + square / (4 * self.count))
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Disagreement:
    """One image that two models see differently."""

    image: str
    first: Prediction
    second: Prediction

    @property
    def weight(self) -> float:
        """How sure both were of different things."""
        return min(self.first.probability, self.second.probability)


@dataclass(frozen=True)
class Evaluation:
    """What one model answered.

    Attributes:
        predictions: For each image that every model could answer.
        failed: Images without an answer, and why.
    """

    model: str
    version: str
    truth: dict[str, int]
    predictions: dict[str, list[Prediction]]
    failed: dict[str, str]

    def accuracy(self, top: int) -> Share:
        """How often the class was among the first `top`."""
        hits = sum(self.truth[image] in [one.index for one in found[:top]] for image, found in self.predictions.items())
        return Share(hits, len(self.predictions))


def read_truth(source: Path, classes: int) -> dict[str, int]:
    """Images and the index of their class.

    Args:
        source: A folder with a folder for each class, or a CSV file with an image and a class index in each line. Folders are named by
            their class index; or there are as many as the model has classes, and their order is the classes' (ImageNet's WordNet ids).
        classes: How many the model has.

    Raises:
        ClientError: It is neither, or names a class that the model does not have.
    """
    truth = _of_folders(source, classes) if source.is_dir() else _of_csv(source)
    if outside := sorted({index for index in truth.values() if not 0 <= index < classes}):
        raise ClientError(f"{source} names class {outside[0]}, and the model has the classes 0 to {classes - 1}")
    if not truth:
        raise ClientError(f"{source} holds no image with a class")
    return truth


def evaluate(classifier: Classifier, truth: dict[str, int], progress: Callable[[], None] = lambda: None) -> Evaluation:
    """Ask a model for the top 5 of every image.

    Raises:
        ServerUnreachable: No server answers any more.
    """
    predictions, failed = {}, {}
    for answer in classifier.stream(truth, top=5):
        if answer.error:
            failed[str(answer.image)] = str(answer.error)
        else:
            predictions[str(answer.image)] = answer.predictions
        progress()
    return Evaluation(classifier.model.name, classifier.model.version, truth, predictions, failed)


def agreement(first: Evaluation, second: Evaluation) -> Share:
    """How often two models name the same class first."""
    common = first.predictions.keys() & second.predictions.keys()
    return Share(sum(first.predictions[image][0].index == second.predictions[image][0].index for image in common), len(common))


def disagreements(first: Evaluation, second: Evaluation, count: int) -> Sequence[Disagreement]:
    """The images that two models see most differently, worst first."""
    pairs = [
        Disagreement(image, found[0], second.predictions[image][0])
        for image, found in first.predictions.items()
        if image in second.predictions and found[0].index != second.predictions[image][0].index
    ]
    return sorted(pairs, key=lambda pair: (-pair.weight, pair.image))[:count]


def _of_folders(root: Path, classes: int) -> dict[str, int]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if all(folder.name.isdigit() for folder in folders):
        indices = [int(folder.name) for folder in folders]
    elif len(folders) == classes:
        indices = list(range(classes))
    else:
        raise ClientError(
            f"{root} has {len(folders)} folders, and the model {classes} classes: name each folder by its class index, "
            "or have one for every class, in their order"
        )
    truth = {}
    for folder, index in zip(folders, indices, strict=True):
        try:
            truth.update(dict.fromkeys(expand([str(folder)]), index))
        except ImageError:  # an empty class is no error
            continue
    return truth


def _of_csv(path: Path) -> dict[str, int]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"{path} cannot be read: {error}") from None
    truth = {}
    for number, row in enumerate(rows, start=1):
        if len(row) < 2 or not row[1].strip().isdigit():
            if number == 1:  # a header
                continue
            raise ClientError(f"{path}, line {number}: expected an image and a class index, found {','.join(row)!r}")
        truth[str(path.parent / row[0].strip())] = int(row[1])
    return truth
