"""Prints answers for people: tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seresnext101_triton.client.output import standard_output
from seresnext101_triton.client.text import printable

if TYPE_CHECKING:
    from seresnext101_triton.client.documents import Answers
    from seresnext101_triton.client.evaluation import Disagreement, Evaluation, Share

UNTRAINED = " UNTRAINED WEIGHTS  made from a seed, for trying things out: the labels mean nothing. "
_WIDTH_WITH_BARS = 60  # columns; in a narrower terminal, the names need the place


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
            has_bars = console.width >= _WIDTH_WITH_BARS
            if has_bars:
                table.add_column("", no_wrap=True)
            for image, predictions in answer.predictions.items():
                for rank, prediction in enumerate(predictions, start=1):
                    bar = Text("█" * round(20 * prediction.probability), style="cyan")
                    table.add_row(
                        _text(Path(image).name if rank == 1 else ""),
                        str(rank),
                        _text(prediction.label, style="bold" if rank == 1 else ""),
                        str(prediction.index),
                        f"{prediction.probability:.2%}",
                        *([bar] if has_bars else []),
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


def _inexact(options: list[str]) -> list[str]:
    return [f"inexact: {' and '.join(options)}"] if options else []


def _text(text: str, style: str = "") -> Text:
    """Text without markup.

    rich would take `[...]` in a string for a style, and a terminal would obey control characters.
    """
    return Text(printable(text), style=style)


def _share(share: Share) -> str:
    if not share.count:
        return "no image"
    low, high = share.interval
    return f"{share.value:.1%} ({low:.1%} – {high:.1%})"
