"""Classifies many images: decoding, batching and requests overlap, and memory stays bounded."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np

from seresnext101_triton.client import timings
from seresnext101_triton.client.decoding import Prediction
from seresnext101_triton.client.errors import ClientError, ImageError, RequestRejected, UsageError
from seresnext101_triton.client.images import ImageSource, errors_of
from seresnext101_triton.client.served import ServedModel
from seresnext101_triton.client.server_decoding import with_name

_LARGEST_BATCH = 8  # a larger batch gains little, and delays the first answers
_SPARE_REQUESTS = 2  # in addition to those that the server computes, so that it never waits
Outcome = list[Prediction] | ClientError


@dataclass(frozen=True)
class Answer:
    """The result for one image.

    Attributes:
        image: The image as it was given.
        predictions: Most likely first; empty if there is an error.
        error: Why there are no predictions.
    """

    image: ImageSource
    predictions: list[Prediction] = field(default_factory=list)
    error: ClientError | None = None


@dataclass(frozen=True)
class StreamOptions:
    """How a stream of images is classified.

    Attributes:
        top: How many predictions for each image.
        batch: Images in one request. None takes what the server's config suggests.
        in_flight: Requests at the same time. None takes what the server's config suggests.
        ordered: Give the answers in the order of the images, not in the order of completion.
    """

    top: int = 5
    batch: int | None = None
    in_flight: int | None = None
    ordered: bool = True

    def for_model(self, model: ServedModel) -> tuple[int, int]:
        """Images in one request, and requests at the same time.

        Raises:
            UsageError: A value is out of the model's range.
        """
        largest = 1 if model.image_input else max(model.max_batch, 1)
        batch = suggested_batch(model) if self.batch is None else self.batch
        if not 0 < batch <= largest:
            raise UsageError(f"`batch` must be from 1 to {largest} images, not {batch}")
        suggested = suggested_in_flight(model, batch)
        in_flight = suggested if self.in_flight is None else self.in_flight
        if in_flight < 1:
            raise UsageError(f"`in_flight` must be at least 1 request, not {in_flight}")
        return batch, in_flight


def suggested_batch(model: ServedModel) -> int:
    """How many images to put into one request.

    A file goes alone, so that a bad one spoils no other. The server makes batches of them.
    """
    if model.image_input:
        return 1
    return max(1, min(model.max_batch, _LARGEST_BATCH))


def suggested_in_flight(model: ServedModel, batch: int) -> int:
    """How many requests to keep in flight: the largest batch of each instance, and some more."""
    return model.instances * max(1, model.max_batch // batch) + _SPARE_REQUESTS


@dataclass(frozen=True)
class Steps:
    """The two steps that a stream repeats. Any thread may call them.

    Attributes:
        prepare: Makes the model's input of one image.
        classify: Classifies a batch of inputs; an error stands in place of an unreadable answer.
    """

    prepare: Callable[[ImageSource], np.ndarray]
    classify: Callable[[np.ndarray], Sequence[Outcome]]


def run(
    steps: Steps, images: Iterable[ImageSource], options: StreamOptions, model: ServedModel
) -> Generator[Answer, None, None]:
    """See `Classifier.stream`.

    Each worker prepares a batch and then asks the server for its answers. There are more workers
    than requests in flight, by the number of processors, so that some prepare while others wait.
    """
    size, limit = options.for_model(model)
    workers = limit + len(os.sched_getaffinity(0))
    gate = _Gate(threading.Semaphore(limit), threading.Event())
    batches = Batches(images, size)
    pending: deque[Future[list[Answer]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="classify")
    try:
        while True:
            while len(pending) < workers and (batch := batches.next()):
                pending.append(pool.submit(_answer, steps, batch, gate))
            if not pending:
                batches.check()
                return
            if not options.ordered:
                wait(pending, return_when=FIRST_COMPLETED)
                pending = deque(sorted(pending, key=lambda future: not future.done()))
            yield from pending.popleft().result()
    finally:
        gate.closed.set()
        pool.shutdown(wait=False, cancel_futures=True)


class Batches:
    """The images in batches.

    An error of the iterator is kept until the images before it are answered.
    """

    def __init__(self, images: Iterable[ImageSource], size: int) -> None:
        self._images = iter(images)
        self._size = size
        self._error: Exception | None = None

    def next(self) -> list[ImageSource]:
        """The next batch. The last one may be smaller; after it the batch is empty."""
        batch: list[ImageSource] = []
        while len(batch) < self._size and self._error is None:
            try:
                batch.append(next(self._images))
            except StopIteration:
                break
            except Exception as error:  # noqa: BLE001  (the iterator is the caller's code)
                self._error = error
        return batch

    def check(self) -> None:
        """Raise the error that ended the images early."""
        if self._error is not None:
            raise self._error


@dataclass(frozen=True)
class _Gate:
    """What every request passes.

    Attributes:
        places: One place for each request that may be in flight.
        closed: Set as soon as the caller has left the stream.
    """

    places: threading.Semaphore
    closed: threading.Event


def _answer(steps: Steps, images: list[ImageSource], gate: _Gate) -> list[Answer]:
    """Answers for one batch, in its order."""
    prepared: list[np.ndarray | ImageError] = []
    for image in images:
        if gate.closed.is_set():
            return []
        prepared.append(prepare_one(steps.prepare, image))
    outcomes: Sequence[Outcome] = []
    if ready := [one for one in prepared if not isinstance(one, ImageError)]:
        with gate.places:
            if gate.closed.is_set():
                return []
            try:
                with timings.part("waiting for the server"):
                    outcomes = steps.classify(np.stack(ready))
            except RequestRejected as error:
                outcomes = [error] * len(ready)
    return answers_of(images, prepared, outcomes)


def prepare_one(
    prepare: Callable[[ImageSource], np.ndarray], image: ImageSource
) -> np.ndarray | ImageError:
    """One image's input, or its error. Any exception is the error of this image alone."""
    try:
        with errors_of(image), timings.part("preparing images"):
            return prepare(image)
    except ImageError as error:
        return error


def answers_of(
    images: Sequence[ImageSource],
    prepared: Sequence[np.ndarray | ImageError],
    outcomes: Sequence[Outcome],
) -> list[Answer]:
    """Bring together what became of each image.

    Args:
        images: The images of one batch.
        prepared: For each image its input or its error.
        outcomes: For each image that has an input, its predictions or its error.
    """
    remaining = iter(outcomes)
    found = []
    for image, one in zip(images, prepared, strict=True):
        outcome = one if isinstance(one, ImageError) else next(remaining)
        if isinstance(outcome, ImageError) and not isinstance(one, ImageError):
            outcome = with_name(outcome, one, image)
        found.append(outcome)
    return [
        Answer(image, error=one) if isinstance(one, ClientError) else Answer(image, one)
        for image, one in zip(images, found, strict=True)
    ]
