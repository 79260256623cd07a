"""Classifies folders of any size into a file of JSON lines that can be interrupted at any moment and gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import filterfalse
from pathlib import Path

from client.classifier import Classifier
from client.errors import ImageError, OutputError, ServerUnreachable
from client.pipeline import Answer


@dataclass
class Tally:
    """How a bulk run went.

    Attributes:
        before: Images that an earlier run had answered.
        answered: Images that this one has.
        unreadable: Of those, files that are no images; their line says why.
        refused: Images that the server refused; they have no line, and the next run asks again.
    """

    before: int = 0
    answered: int = 0
    unreadable: int = 0
    refused: int = 0


def classify_into(
    output: Path,
    images: Callable[[], Iterable[str]],
    classifier: Classifier,
    *,
    top: int,
    patience_s: float,
    batch: int | None = None,
    in_flight: int | None = None,
    progress: Callable[[Tally], None] = lambda tally: None,
    note: Callable[[str], None] = lambda line: None,
) -> Tally:
    """Write one line for each image, in the order in which they are answered. An image that has a line is not asked again.

    Args:
        output: The file; what it holds already is kept.
        images: Gives the images, anew each time.
        classifier: Whom to ask.
        top: How many predictions for each.
        patience_s: How long to wait for a server that has gone, in seconds, each time it goes.
        batch: As for `Classifier.stream`.
        in_flight: As for `Classifier.stream`.
        progress: Is called after every answer.
        note: Is called with a line that a person should see.

    Raises:
        OutputError: The file cannot be written, or holds something else.
        ServerUnreachable: The server did not come back in time. Every answer it gave is in the file.
        ModelUnavailable: The model is not served any more; likewise.
    """
    done = _resume(output, classifier)
    tally = Tally(before=len(done))
    progress(tally)
    try:
        with output.open("a", encoding="utf-8") as file:
            while True:
                remaining = filterfalse(done.__contains__, images())
                answers = classifier.stream(remaining, top=top, batch=batch, in_flight=in_flight, ordered=False)
                try:
                    for answer in answers:
                        _write(file.write, answer, classifier, tally, done)
                        file.flush()
                        progress(tally)
                    return tally
                except ServerUnreachable as error:
                    if not patience_s:
                        raise
                    note(f"{error} Waiting {patience_s:.0f} s for it.")
                    classifier.wait_until_ready(patience_s)
                    note("It is back.")
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}. What it holds is whole; run again to go on") from None


def _write(write: Callable[[str], object], answer: Answer, classifier: Classifier, tally: Tally, done: set[str]) -> None:
    line: dict[str, object] = {"image": str(answer.image), "model": classifier.model.name, "version": classifier.model.version}
    if answer.error is None:
        line["predictions"] = [asdict(prediction) for prediction in answer.predictions]
    elif isinstance(answer.error, ImageError):
        line["error"] = str(answer.error)
        tally.unreadable += 1
    else:
        tally.refused += 1
        return
    write(json.dumps(line, ensure_ascii=False) + "\n")
    done.add(str(answer.image))
    tally.answered += 1


def _resume(output: Path, classifier: Classifier) -> set[str]:
    """The images that have a line. A last line that was cut off is removed.

    Raises:
        OutputError: The file holds something else, or answers of another model.
    """
    if not output.exists():
        return set()
    done = set()
    whole = 0
    try:
        for line in _whole_lines(output):
            entry = json.loads(line)
            done.add(entry["image"])
            if entry["model"] != classifier.model.name:
                raise OutputError(f"{output} holds answers of {entry['model']}, not of {classifier.model.name}: name another file")
            whole += len(line)
        with output.open("r+b") as file:
            file.truncate(whole)
    except (ValueError, KeyError, TypeError):
        raise OutputError(f"{output} holds something else than the lines of an earlier run: name another file") from None
    except OSError as error:
        raise OutputError(f"{output} cannot be read: {error.strerror}") from None
    return done


def _whole_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line
