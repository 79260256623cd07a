"""What the command line prints: tables for people, JSON and CSV for machines."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.decoding import Prediction
from client.evaluation import Disagreement, Evaluation, Share

UNTRAINED = " UNTRAINED WEIGHTS  made from a seed, for trying things out: the labels mean nothing. "


@dataclass
class Answers:
    """What one model said of the images, in the order they were named."""

    model: str
    version: str
    untrained: bool
    predictions: dict[str, list[Prediction]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        answered = [
            {"image": image, "predictions": [asdict(prediction) for prediction in predictions]}
            for image, predictions in self.predictions.items()
        ]
        failed = [{"image": image, "error": error} for image, error in self.errors.items()]
        return {"model": self.model, "version": self.version, "untrained": self.untrained, "images": answered + failed}


def print_json(document: object) -> None:
    """One JSON document."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_json_lines(answers: Iterable[Answers]) -> None:
    """One JSON object for each model and image."""
    for answer in answers:
        facts = answer.to_json()
        for entry in facts.pop("images"):
            print(json.dumps(facts | entry, ensure_ascii=False))


def print_csv(answers: Iterable[Answers]) -> None:
    """One row for each prediction."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["model", "version", "image", "rank", "index", "label", "probability"])
    for answer in answers:
        for image, predictions in answer.predictions.items():
            for rank, one in enumerate(predictions, start=1):
                writer.writerow([answer.model, answer.version, image, rank, one.index, one.label, one.probability])


def print_answers(answers: Sequence[Answers]) -> None:
    """A table for each model."""
    console = Console(highlight=False)
    for answer in answers:
        title = f"{answer.model} · version {answer.version}" + (" · untrained weights" if answer.untrained else "")
        table = Table(title=title, title_justify="left", title_style="bold", box=None)
        table.add_column("image", overflow="fold")
        table.add_column("", justify="right", style="dim")
        table.add_column("label", overflow="fold")
        table.add_column("class", justify="right", style="dim")
        table.add_column("probability", justify="right")
        table.add_column("", no_wrap=True)
        for image, predictions in answer.predictions.items():
            for rank, prediction in enumerate(predictions, start=1):
                table.add_row(
                    Text(Path(image).name if rank == 1 else ""),
                    str(rank),
                    Text(prediction.label, style="bold" if rank == 1 else ""),
                    str(prediction.index),
                    f"{prediction.probability:.2%}",
                    Text("█" * round(20 * prediction.probability), style="cyan"),
                    end_section=rank == len(predictions),
                )
        if answer.predictions:
            console.print(table)
            console.print()
    if any(answer.untrained and answer.predictions for answer in answers):
        console.print(UNTRAINED, style="bold yellow reverse", soft_wrap=True)


def print_evaluations(evaluations: Sequence[Evaluation], agreed: Share | None, worst: Sequence[Disagreement]) -> None:
    """Accuracy of each model, and where two of them differ."""
    console = Console(highlight=False)
    table = Table("model", "images", "top-1", "top-5", box=None, pad_edge=False, title="accuracy (95 % interval)", title_justify="left")
    for evaluation in evaluations:
        shares = (_share(evaluation.accuracy(top)) for top in (1, 5))
        table.add_row(f"{evaluation.model} · version {evaluation.version}", str(len(evaluation.predictions)), *shares)
    console.print(table)
    if agreed is None:
        return
    console.print(f"\nthe same class first: {_share(agreed)} of {agreed.count} images")
    if worst:
        table = Table("image", *(evaluation.model for evaluation in evaluations), box=None, pad_edge=False)
        for pair in worst:
            table.add_row(Text(pair.image), *(f"{one.label} {one.probability:.1%}" for one in (pair.first, pair.second)))
        console.print(table)


def print_facts(facts: dict[str, str]) -> None:
    """Names and values."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in facts.items():
        table.add_row(Text(name, style="dim"), Text(value))
    Console(highlight=False).print(table)


def print_rows(names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A plain table."""
    table = Table(*names, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def _share(share: Share) -> str:
    low, high = share.interval
    return f"{share.value:.1%} ({low:.1%} – {high:.1%})"
