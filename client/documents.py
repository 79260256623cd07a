"""Prints answers for machines: JSON and CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from seresnext101_triton.client.output import encodes, standard_output
from seresnext101_triton.client.text import escaped, json_text

if TYPE_CHECKING:
    from seresnext101_triton.client.decoding import Prediction
    from seresnext101_triton.client.evaluation import Disagreement, Evaluation, Share


@dataclass
class Answers:
    """The answers of one model, in the order of the images.

    Attributes:
        model: Name of the model.
        version: Version of the model.
        untrained: Whether the labels have no meaning.
        predictions: The predictions for each answered image.
        errors: The error of each other image.
        inexact: The options because of which the inputs are not exact.
    """

    model: str
    version: str
    untrained: bool
    predictions: dict[str, list[Prediction]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    inexact: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The document of `--json`."""
        answered = [
            {"image": image, "predictions": [asdict(prediction) for prediction in predictions]}
            for image, predictions in self.predictions.items()
        ]
        failed = [{"image": image, "error": error} for image, error in self.errors.items()]
        return {
            "model": self.model,
            "version": self.version,
            "untrained": self.untrained,
            "inexact": self.inexact,
            "images": answered + failed,
        }


def print_json(document: object) -> None:
    """One JSON document."""
    _print_json([document], indent=2)


def print_json_lines(answers: Iterable[Answers]) -> None:
    """One JSON object for each model and image."""
    facts = [answer.to_json() for answer in answers]
    _print_json([model | entry for model in facts for entry in model.pop("images")], indent=None)


def print_csv(answers: Iterable[Answers]) -> None:
    """Print one line for each prediction.

    Bytes of names that are not UTF-8, and control characters, are written as `escaped` does.
    """
    with standard_output() as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "version", "image", "rank", "index", "label", "probability"])
        for answer in answers:
            for image, predictions in answer.predictions.items():
                for rank, one in enumerate(predictions, start=1):
                    row = [
                        answer.model,
                        answer.version,
                        escaped(image),
                        rank,
                        one.index,
                        escaped(one.label),
                        one.probability,
                    ]
                    writer.writerow(row)


def evaluations_to_json(
    evaluations: Sequence[Evaluation], agreed: Share | None, worst: Sequence[Disagreement]
) -> dict[str, Any]:
    """The document of `--json`. The value of a share of no image is null."""
    document: dict[str, Any] = {
        "models": [
            {
                "model": one.model,
                "version": one.version,
                "inexact": one.inexact,
                "images": len(one.predictions),
                "failed": one.failed,
                "top1": _share_to_json(one.accuracy(1)),
                "top5": _share_to_json(one.accuracy(5)),
            }
            for one in evaluations
        ]
    }
    if agreed:
        document["agreement"] = _share_to_json(agreed)
        document["worst"] = [
            {"image": pair.image, "labels": [pair.first.label, pair.second.label]} for pair in worst
        ]
    return document


def _print_json(documents: Iterable[object], indent: int | None) -> None:
    with standard_output() as file:
        for document in documents:
            text = json_text(document, indent=indent)
            file.write(
                (text if encodes(text) else json_text(document, indent=indent, ascii_only=True))
                + "\n"
            )


def _share_to_json(share: Share) -> dict[str, Any]:
    return {"value": share.value if share.count else None, "interval": share.interval}
