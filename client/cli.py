"""The command line: `python -m client classify IMAGE...`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.errors import ClientError, ImageError

if TYPE_CHECKING:
    from client.classifier import Classifier
    from client.decoding import Prediction

_EPILOG = """\
examples:
  python -m client classify cat.jpg
  python -m client classify photos/*.jpg --model seresnext101_onnx --top 3
  python -m client classify cat.jpg --json | jq '.[0].images[0].predictions[0].label'

exit codes:
  0  every image was classified by every model
  1  an image could not be read, or the server refused; what could be answered was
  2  wrong usage
  69 no server answers
"""

_UNTRAINED = " UNTRAINED WEIGHTS  made from a seed, for trying things out: the labels mean nothing. "


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _classify(options)
    except ClientError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m client",
        description="Ask a Triton server what is in a picture.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    classify = commands.add_parser(
        "classify",
        help="print the most likely classes of each image",
        description="Print the most likely classes of each image.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    classify.add_argument("images", nargs="+", metavar="IMAGE", help="an image file: JPEG, PNG, WebP, GIF, BMP, TIFF, ...")
    classify.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="the served model; may be given several times, and left out where the server serves one model",
    )
    classify.add_argument("--version", default="", metavar="N", help="a version of the model (default: the server's choice)")
    classify.add_argument("--url", metavar="HOST:PORT", help="the server's gRPC endpoint (default: $TRITON_URL, else localhost:8001)")
    classify.add_argument("--top", type=_positive, default=5, metavar="K", help="classes for each image (default: 5)")
    classify.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


@dataclass
class _Answers:
    """What one model said of the images, in the order they were named."""

    model: str
    version: str
    untrained: bool
    predictions: dict[str, list[Prediction]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        answered = [
            {"image": image, "predictions": [asdict(prediction) for prediction in predictions]}
            for image, predictions in self.predictions.items()
        ]
        failed = [{"image": image, "error": error} for image, error in self.errors.items()]
        return {"model": self.model, "version": self.version, "untrained": self.untrained, "images": answered + failed}


def _classify(options: argparse.Namespace) -> int:
    from client.classifier import Classifier

    answers = []
    for model in options.model or [None]:
        with Classifier(options.url, model, version=options.version) as classifier:
            answers.append(_ask(classifier, dict.fromkeys(options.images), options.top))
    if options.json:
        print(json.dumps([answer.to_json() for answer in answers], indent=2, ensure_ascii=False))
    else:
        _print_tables(answers)
    errors = {image: error for answer in answers for image, error in answer.errors.items()}
    for error in errors.values():
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


def _ask(classifier: Classifier, images: Iterable[str], top: int) -> _Answers:
    """Classify in requests of the server's maximum batch; an image that cannot be read does not stop the others."""
    import numpy as np

    served = classifier.model
    answers = _Answers(served.name, served.version, served.untrained)
    ready: dict[str, np.ndarray] = {}

    def flush() -> None:
        if ready:
            batch = np.stack(list(ready.values()))
            answers.predictions.update(zip(ready, classifier.classify_batch(batch, top=top), strict=True))
            ready.clear()

    for image in images:
        try:
            ready[image] = classifier.prepare(image)
        except ImageError as error:
            answers.errors[image] = str(error)
        if len(ready) >= max(served.max_batch, 1):
            flush()
    flush()
    return answers


def _print_tables(answers: Sequence[_Answers]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

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
        console.print(_UNTRAINED, style="bold yellow reverse", soft_wrap=True)
