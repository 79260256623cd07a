"""Classifies folders of any size into a file of answers that can be interrupted at any moment and gone on with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import filterfalse
from pathlib import Path

from client.classifier import Classifier
from client.errors import ImageError, OutputError, ServerUnreachable
from client.pipeline import Answer
from client.records import Records, records_at


@dataclass
class Tally:
    """How a bulk run went.

    Attributes:
        before: Images that an earlier run had answered.
        answered: Images that this one has.
        unreadable: Of those, files that are no images; their record says why.
        refused: Images that the server refused; they have no record, and the next run asks again.
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
    """Record one answer for each image, in the order in which they are answered. An image that has one is not asked again.

    Args:
        output: A file of JSON lines, or a folder of Parquet files where its name ends in `.parquet`; what it holds already is kept.
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
    records = records_at(output)
    done = records.images(classifier.model.name)
    tally = Tally(before=len(done))
    progress(tally)
    try:
        with records:
            while True:
                remaining = filterfalse(done.__contains__, images())
                answers = classifier.stream(remaining, top=top, batch=batch, in_flight=in_flight, ordered=False)
                try:
                    for answer in answers:
                        _record(records, answer, classifier, tally, done)
                        progress(tally)
                    return tally
                except ServerUnreachable as error:
                    if not patience_s:
                        raise
                    note(f"{error} Waiting {patience_s:.0f} s for it.")
                    classifier.wait_until_ready(patience_s)
                    note("It is back.")
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror or error}. What it holds is whole; run again to go on") from None


def _record(records: Records, answer: Answer, classifier: Classifier, tally: Tally, done: set[str]) -> None:
    record: dict[str, object] = {"image": str(answer.image), "model": classifier.model.name, "version": classifier.model.version}
    if answer.error is None:
        record["predictions"] = [asdict(prediction) for prediction in answer.predictions]
    elif isinstance(answer.error, ImageError):
        record["error"] = str(answer.error)
        tally.unreadable += 1
    else:
        tally.refused += 1
        return
    records.append(record)
    done.add(str(answer.image))
    tally.answered += 1
