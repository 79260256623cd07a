"""Classifies folders of any size into a file. A run can be interrupted and continued."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from seresnext101_triton.client.errors import (
    ClientError,
    ImageError,
    ModelUnavailable,
    ServerUnreachable,
)
from seresnext101_triton.client.pipeline import Answer
from seresnext101_triton.client.records import Record, Records, records_at
from seresnext101_triton.client.served import ServedModel

_PAUSE_S = 0.5  # before a server that is back is asked again


@dataclass
class Tally:
    """The result of a bulk run, in numbers of images.

    Attributes:
        before: Images that an earlier run has answered.
        unreadable_before: Those of `before` whose records have an error and no predictions. They
            are not tried again as long as they have these records.
        answered: Images that this run has answered.
        unreadable: Those of `answered` that have an error and no predictions: the image could not
            be found, read or prepared, or its answer could not be decoded. The record has the
            error.
        refused: Images that the server refused. They have no record, and the next run sends them
            again.
    """

    before: int = 0
    unreadable_before: int = 0
    answered: int = 0
    unreadable: int = 0
    refused: int = 0


@dataclass(frozen=True)
class BulkOptions:
    """The options of a bulk run.

    Attributes:
        patience_s: How long to wait for the server, or for the model, each time that it is away,
            in seconds.
        top: How many predictions to record for each image.
        batch: The same as for `Classifier.stream`.
        in_flight: The same as for `Classifier.stream`.
    """

    patience_s: float
    top: int = 5
    batch: int | None = None
    in_flight: int | None = None


def _ignore(_event: object) -> None:
    """Do nothing. This is the default of every function in `BulkEvents`."""


@dataclass(frozen=True)
class BulkEvents:
    """Functions that a bulk run calls.

    Attributes:
        progress: A function that is called after every answer. A file of JSON lines then has the
            record of the answer.
        note: A function that is called with a line that a user should see.
        failed: A function that is called with the error of each image that has no predictions.
    """

    progress: Callable[[Tally], None] = _ignore
    note: Callable[[str], None] = _ignore
    failed: Callable[[ClientError], None] = _ignore


class Engine(Protocol):
    """What answers the images of a bulk run, for example a `Classifier`.

    Attributes:
        model: What the server says about the model.
    """

    model: ServedModel

    @property
    def inexact(self) -> list[str]:
        """The options because of which the inputs are not exact."""

    def stream(
        self,
        images: Iterable[str],
        *,
        top: int,
        batch: int | None,
        in_flight: int | None,
        ordered: bool,
    ) -> Iterator[Answer]:
        """See `Classifier.stream`."""

    def wait_until_ready(self, timeout_s: float) -> None:
        """See `Classifier.wait_until_ready`."""


class Patience:
    """How long to wait for a server that is away.

    Args:
        seconds: The longest time without an answer.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._answered = 0
        self._silent_since: float | None = None

    def is_over(self, answered: int) -> bool:
        """Whether there was no answer for longer than the patience, however often it waited.

        A server whose model has lost its process says that it is ready, and does not answer.

        Args:
            answered: How many answers there are so far.
        """
        now = time.monotonic()
        if answered != self._answered or self._silent_since is None:
            self._answered, self._silent_since = answered, now
        return not self.seconds or now - self._silent_since > self.seconds

    def wait(self, engine: Engine | None) -> None:
        """Wait until the model is served again.

        Args:
            engine: What knows the model. None, if no server has answered yet, only makes a pause.

        Raises:
            ClientError: It was not within the time.
        """
        if engine is not None:
            engine.wait_until_ready(self.seconds)
        time.sleep(_PAUSE_S)


def classify_into(
    output: Path,
    images: Callable[[], Iterable[str]],
    classifier: Engine,
    options: BulkOptions,
    events: BulkEvents = BulkEvents(),
) -> Tally:
    """Classify images, and write one record for each image, in the order of the answers.

    An image that has a record is not classified again.

    Args:
        output: A file of JSON lines, or a folder of Parquet files if its name ends in `.parquet`.
            Earlier records in it are kept.
        images: A function that returns the images, as `seresnext101_triton.client.sources.expand`
            does. It is called again each time that the server was away. An image that is named
            twice is classified once.
        classifier: A `Classifier`, or what answers in its place.
        options: The options of the run.
        events: The functions to call.

    Raises:
        OutputError: The file cannot be written, holds other data, or another run writes to it.
        ServerUnreachable: The server did not answer again in time. The file has all answers so far.
        ModelUnavailable: The model was not served again in time. The file has all answers so far.
    """
    with records_at(output) as records:
        run = _Run(records, classifier, events)
        patience = Patience(options.patience_s)
        events.progress(run.tally)
        while True:
            try:
                run.classify(images(), options)
                return run.tally
            except (ServerUnreachable, ModelUnavailable) as error:
                if patience.is_over(run.tally.answered):
                    raise
                events.note(f"{error}. Waiting {options.patience_s:.0f} s for it.")
                patience.wait(classifier)
                events.note("It is back.")


class _Run:
    """One run: it knows which images have an answer, were sent, or were refused."""

    def __init__(self, records: Records, classifier: Engine, events: BulkEvents) -> None:
        self._records, self._classifier, self._events = records, classifier, events
        model = classifier.model
        self._model_facts: Record = {"model": model.name, "version": model.version}
        if classifier.inexact:
            self._model_facts["inexact"] = classifier.inexact
        self._done = records.images(model.name, classifier.inexact)
        self._refused: set[str] = set()
        self.tally = Tally(len(self._done), records.unreadable)

    def classify(self, images: Iterable[str], options: BulkOptions) -> None:
        """Classify the images that have neither a record nor a refusal."""
        for answer in self._classifier.stream(
            self._remaining(images),
            top=options.top,
            batch=options.batch,
            in_flight=options.in_flight,
            ordered=False,
        ):
            self.take(answer)
            self._events.progress(self.tally)

    def _remaining(self, images: Iterable[str]) -> Iterator[str]:
        self._asked: set[str] = set()
        for image in images:
            if not any(image in known for known in (self._done, self._refused, self._asked)):
                self._asked.add(image)
                yield image

    def take(self, answer: Answer) -> None:
        """Record one answer, unless the server refused the image."""
        image = str(answer.image)
        if answer.error is not None:
            self._events.failed(answer.error)
        if answer.error is None:
            predictions = [asdict(prediction) for prediction in answer.predictions]
            outcome: Record = {"predictions": predictions}
        elif isinstance(answer.error, ImageError):
            outcome = {"error": str(answer.error)}
            self.tally.unreadable += 1
        else:
            self._refused.add(image)
            self.tally.refused += 1
            return
        self._records.append({"image": image} | self._model_facts | outcome)
        self._done.add(image)
        self._asked.discard(image)
        self.tally.answered += 1
