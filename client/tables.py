"""Prints answers: tables for people, JSON and CSV for machines."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seresnext101_triton.client.decoding import Prediction
from seresnext101_triton.client.evaluation import Disagreement, Evaluation, Share
from seresnext101_triton.client.output import encodes, standard_output
from seresnext101_triton.client.text import escaped, json_text, printable

UNTRAINED = " UNTRAINED WEIGHTS  made from a seed, for trying things out: the labels mean nothing. "
_WIDTH_WITH_BARS = 60  # columns; in a narrower terminal, the names need the place


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


def print_answers(answers: Sequence[Answers]) -> None:
    """A table for each model."""
    with _console() as console:
        for answer in answers:
            facts = [answer.model, f"version {answer.version}"]
            facts += ["untrained weights"] * answer.untrained + _inexact(answer.inexact)
            table = Table(box=None)
            table.add_column("image", overflow="fold")
            table.add_column("", justify="right", style="dim", no_wrap=True)
            table.add_column("label", overflow="fold")
            table.add_column("class", justify="right", style="dim", no_wrap=True)
            table.add_column("probability", justify="right", no_wrap=True)
            if has_bars := console.width >= _WIDTH_WITH_BARS:
                table.add_column("", no_wrap=True)
            for image, predictions in answer.predictions.items():
                for rank, prediction in enumerate(predictions, start=1):
                    table.add_row(
                        _text(Path(image).name if rank == 1 else ""),
                        str(rank),
                        _text(prediction.label, style="bold" if rank == 1 else ""),
                        str(prediction.index),
                        f"{prediction.probability:.2%}",
                        *[Text("█" * round(20 * prediction.probability), style="cyan")][:has_bars],
                        end_section=rank == len(predictions),
                    )
            if answer.predictions:
                console.print(_text(" · ".join(facts), style="bold"), soft_wrap=True)
                console.print(table)
                console.print()
        if any(answer.untrained and answer.predictions for answer in answers):
            console.print(UNTRAINED, style="bold yellow reverse", soft_wrap=True)


def print_evaluations(
    evaluations: Sequence[Evaluation], agreed: Share | None, worst: Sequence[Disagreement]
) -> None:
    """Accuracy of each model, of how many images, and where two of them differ."""
    with _console() as console:
        console.print("accuracy (95 % interval)")
        table = Table("model", "images", "top-1", "top-5", box=None, pad_edge=False)
        for evaluation in evaluations:
            count = str(len(evaluation.predictions))
            if evaluation.failed:
                count += f" of {len(evaluation.truth)}"
            facts = [evaluation.model, f"version {evaluation.version}"]
            facts += _inexact(evaluation.inexact)
            shares = (_share(evaluation.accuracy(top)) for top in (1, 5))
            table.add_row(
                _text(" · ".join(facts)),
                count,
                *shares,
            )
        console.print(table)
        if agreed is None:
            return
        console.print(Text(f"\nthe same class first: {_share(agreed)} of {agreed.count} images"))
        if worst:
            table = Table("image", box=None, pad_edge=False)
            for evaluation in evaluations:
                table.add_column(_text(evaluation.model))
            for pair in worst:
                table.add_row(
                    _text(pair.image),
                    *(
                        _text(f"{one.label} {one.probability:.1%}")
                        for one in (pair.first, pair.second)
                    ),
                )
            console.print(table)


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


def print_facts(facts: dict[str, str]) -> None:
    """Names and values."""
    with _console() as console:
        table = Table(box=None, show_header=False, pad_edge=False)
        for name, value in facts.items():
            table.add_row(Text(name, style="dim"), _text(value))
        console.print(table)


def print_rows(names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A plain table."""
    with _console() as console:
        table = Table(*names, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*map(_text, row))
        console.print(table)


@contextmanager
def _console() -> Iterator[Console]:
    with standard_output() as file:
        yield Console(file=file, highlight=False)


def _print_json(documents: Iterable[object], indent: int | None) -> None:
    with standard_output() as file:
        for document in documents:
            text = json_text(document, indent=indent)
            file.write(
                (text if encodes(text) else json_text(document, indent=indent, ascii_only=True))
                + "\n"
            )


def _inexact(options: list[str]) -> list[str]:
    return [f"inexact: {' and '.join(options)}"] if options else []


def _text(text: str, style: str = "") -> Text:
    """Text without markup.

    rich would take `[...]` in a string for a style, and a terminal would obey control characters.
    """
    return Text(printable(text), style=style)


def _share_to_json(share: Share) -> dict[str, Any]:
    return {"value": share.value if share.count else None, "interval": share.interval}


def _share(share: Share) -> str:
    if not share.count:
        return "no image"
    low, high = share.interval
    return f"{share.value:.1%} ({low:.1%} – {high:.1%})"
