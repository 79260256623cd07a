"""Many images through one classifier: decoding, batching and requests overlap, in bounded memory."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from client.decoding import Prediction
from client.errors import ClientError, ImageError, RequestRejected
from client.images import ImageSource

if TYPE_CHECKING:
    from client.classifier import Classifier
    from client.connection import ServedModel

_LARGEST_BATCH = 8  # more gains little, and makes the first answers late
_SPARE_REQUESTS = 2  # beyond what the server computes at once, so that it never waits for us


@dataclass(frozen=True)
class Answer:
    """What became of one image.

    Attributes:
        image: As it was given.
        predictions: Most likely first; empty where there is an error.
        error: Why there are none.
    """

    image: ImageSource
    predictions: list[Prediction] = field(default_factory=list)
    error: ClientError | None = None


def suggested_batch(model: ServedModel) -> int:
    """How many images to put into one request."""
    return max(1, min(model.max_batch, _LARGEST_BATCH))


def suggested_in_flight(model: ServedModel, batch: int) -> int:
    """How many requests to keep in flight: enough for every instance's largest batch, and some that wait."""
    return model.instances * max(1, model.max_batch // batch) + _SPARE_REQUESTS


def run(
    classifier: Classifier, images: Iterable[ImageSource], *, top: int, batch: int | None, in_flight: int | None, ordered: bool
) -> Iterator[Answer]:
    """See `Classifier.stream`.

    Each worker decodes a batch and then asks the server for it. There are more of them than requests in flight, by the number of
    processors, so that some decode while others wait.
    """
    size = batch or suggested_batch(classifier.model)
    if not 0 < size <= max(classifier.model.max_batch, 1):
        raise ClientError(f"a request takes 1 to {max(classifier.model.max_batch, 1)} images, not {size}")
    limit = in_flight or suggested_in_flight(classifier.model, size)
    workers = limit + len(os.sched_getaffinity(0))
    asking = threading.Semaphore(limit)
    remaining = iter(images)
    pending: deque[Future[list[Answer]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="classify")
    try:
        while True:
            while len(pending) < workers and (part := list(islice(remaining, size))):
                pending.append(pool.submit(_answer, classifier, part, top, asking))
            if not pending:
                return
            if not ordered:
                wait(pending, return_when=FIRST_COMPLETED)
                pending = deque(sorted(pending, key=lambda future: not future.done()))
            yield from pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _answer(classifier: Classifier, images: list[ImageSource], top: int, asking: threading.Semaphore) -> list[Answer]:
    """Answers for one batch, in its order; a picture that cannot be read does not stop the others."""
    ready: list[np.ndarray] = []
    errors: dict[int, ClientError] = {}
    for number, image in enumerate(images):
        try:
            ready.append(classifier.prepare(image))
        except ImageError as error:
            errors[number] = error
    predictions: Iterator[list[Prediction]] = iter(())
    if ready:
        try:
            with asking:
                predictions = iter(classifier.classify_batch(np.stack(ready), top=top))
        except RequestRejected as error:
            return [Answer(image, error=errors.get(number, error)) for number, image in enumerate(images)]
    return [
        Answer(image, error=errors[number]) if number in errors else Answer(image, next(predictions)) for number, image in enumerate(images)
    ]
