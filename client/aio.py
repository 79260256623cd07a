"""The classifier for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from seresnext101_triton.client.classifier import (
    ImageClassifier,
    all_predictions,
    answer_of,
    default_url,
    list_denied,
    only_model,
    rejected,
)
from seresnext101_triton.client.connection import AsyncConnection, Connection
from seresnext101_triton.client.decoding import Prediction
from seresnext101_triton.client.errors import AccessDenied, ImageError, RequestRejected
from seresnext101_triton.client.images import ImageOptions, ImageSource
from seresnext101_triton.client.pipeline import (
    Answer,
    Batches,
    Outcome,
    StreamOptions,
    answers_of,
    prepare_one,
)
from seresnext101_triton.client.served import ServedModel
from seresnext101_triton.client.server_decoding import (
    ServerSide,
    check_options,
    check_server_side,
    choose,
)
from seresnext101_triton.client.transport import TransportOptions

Result = TypeVar("Result")


class AsyncClassifier(ImageClassifier):
    """A `Classifier` for asyncio, whose requests do not need a thread each.

    Use it in one event loop, as an async context manager. Requests are sent by the transports of
    asyncio. Images are decoded in a few threads, because decoding needs a processor; Pillow
    releases Python's lock meanwhile.

    Args:
        url: As for `Classifier`.
        model: As for `Classifier`.
        version: As for `Classifier`.
        transport_options: As for `Classifier`.
        image_options: As for `Classifier`.
        in_flight: How many requests run at the same time, besides those of `stream`. Others wait.
        server_side: As for `Classifier`.
        follow: As for `Classifier`.
    """

    def __init__(  # noqa: PLR0913  (one more than `Classifier`)
        self,
        url: str | Sequence[str] | None = None,
        model: str | None = None,
        *,
        version: str = "",
        transport_options: TransportOptions = TransportOptions(),
        image_options: ImageOptions = ImageOptions(),
        in_flight: int = 16,
        server_side: ServerSide = "no",
        follow: bool = True,
    ) -> None:
        check_server_side(server_side)
        self._url = url or default_url(transport_options.protocol)
        self._wanted = model, version
        self._follows = follow and not version
        self._transport_options, self._image_options = transport_options, image_options
        self._in_flight, self._server_side = in_flight, server_side

    async def __aenter__(self) -> AsyncClassifier:
        self._connection = AsyncConnection(self._url, self._transport_options)
        self._places = asyncio.Semaphore(self._in_flight)
        try:
            model, version = self._wanted
            described = await self._connection.describe(model or await self._only_model(), version)
            self.model = described
            if self._server_side != "no":
                self.model = await asyncio.to_thread(self._choose, described)
            check_options(self.model, self._image_options)
        except BaseException:
            await self._connection.close()
            raise
        workers = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="classify")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        await self._connection.close()

    def __getattr__(self, name: str) -> object:
        if name in ("model", "_connection", "_pool", "_places"):
            raise RuntimeError("use it as `async with AsyncClassifier(...) as classifier:`")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    async def classify(self, image: ImageSource, *, top: int = 5) -> list[Prediction]:
        """See `Classifier.classify`."""
        tensor = await self._in_thread(lambda: self.prepare(image))
        outcome = await self.try_batch(np.ascontiguousarray(tensor[None]), top=top)
        return answer_of(image, tensor, outcome[0])

    async def classify_all(
        self, images: Iterable[ImageSource], *, top: int = 5
    ) -> list[list[Prediction]]:
        """See `Classifier.classify_all`."""
        answers = []
        async for answer in self.stream(images, top=top):
            if answer.error:
                raise answer.error
            answers.append(answer.predictions)
        return answers

    async def stream(
        self,
        images: Iterable[ImageSource],
        *,
        top: int = 5,
        batch: int | None = None,
        in_flight: int | None = None,
        ordered: bool = True,
    ) -> AsyncGenerator[Answer, None]:
        """See `Classifier.stream`. The iterator of images runs in a thread."""
        size, limit = StreamOptions(top, batch, in_flight, ordered).for_model(self.model)
        workers = limit + len(os.sched_getaffinity(0))
        places = asyncio.Semaphore(limit)
        batches = Batches(images, size)
        pending: deque[asyncio.Task[list[Answer]]] = deque()
        try:
            while True:
                while len(pending) < workers and (part := await self._in_thread(batches.next)):
                    pending.append(asyncio.create_task(self._answers(part, top, places)))
                if not pending:
                    batches.check()
                    return
                if not ordered:
                    await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    pending = deque(sorted(pending, key=lambda task: not task.done()))
                task = pending.popleft()
                try:
                    answers = await task
                finally:
                    task.cancel()
                for answer in answers:
                    yield answer
        finally:
            for task in pending:
                task.cancel()

    async def classify_batch(self, batch: np.ndarray, *, top: int = 5) -> list[list[Prediction]]:
        """See `Classifier.classify_batch`."""
        return all_predictions(await self.try_batch(batch, top=top))

    async def try_batch(self, batch: np.ndarray, *, top: int = 5) -> list[Outcome]:
        """See `Classifier.try_batch`."""
        async with self._places:
            return await self._try_batch(batch, top)

    async def infer(self, batch: np.ndarray) -> np.ndarray:
        """See `Classifier.infer`."""
        async with self._places:
            return await self._answer(batch, 0)

    async def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """See `Classifier.wait_until_ready`."""
        await self._connection.wait_until_ready(self.model.name, timeout_s)

    async def _try_batch(self, batch: np.ndarray, top: int) -> list[Outcome]:
        count = self._requested_classes(top)
        try:
            answer = await self._answer(batch, count)
        except RequestRejected as error:
            return rejected(error, len(batch))
        return self._decoded(answer, batch, top)

    async def _answer(self, batch: np.ndarray, count: int) -> np.ndarray:
        if not self._follows:
            return await self._connection.infer_top(self.model, batch, count)
        self.model, answer = await self._connection.infer_following(self.model, batch, count)
        return answer

    def _choose(self, model: ServedModel) -> ServedModel:
        """See `choose`, which asks the server by a blocking connection of its own."""
        with Connection(self._url, self._transport_options) as connection:
            return choose(connection, model, self._server_side, self._image_options)

    async def _answers(
        self, images: Sequence[ImageSource], top: int, places: asyncio.Semaphore
    ) -> list[Answer]:
        """Answers for one batch, in its order."""
        prepared = await self._in_thread(
            lambda: [prepare_one(self.prepare, image) for image in images]
        )
        outcomes: list[Outcome] = []
        if ready := [one for one in prepared if not isinstance(one, ImageError)]:
            async with places:
                try:
                    outcomes = await self._try_batch(np.stack(ready), top)
                except RequestRejected as error:
                    outcomes = [error] * len(ready)
        return answers_of(images, prepared, outcomes)

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def _only_model(self) -> str:
        try:
            names = await self._connection.ready_models()
        except AccessDenied as error:
            raise list_denied(error) from None
        return only_model(self._connection.url, names)
