"""The client for asyncio: the same calls, to be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from client.classifier import Classifier
from client.connection import ServedModel
from client.decoding import Prediction
from client.images import ImageSource
from client.pipeline import Answer

Result = TypeVar("Result")

_END = object()


class AsyncClassifier:
    """A `Classifier` whose calls do not block the event loop. Use it as an async context manager.

    Decoding a picture takes a processor either way, so that calls run in threads of their own; Pillow and gRPC release Python's lock.

    Args:
        in_flight: How many calls run at the same time; others wait their turn.
        options: Those of `Classifier`.
    """

    def __init__(self, *arguments: Any, in_flight: int = 16, **options: Any) -> None:
        self._options = (arguments, options)
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="classify")
        self._classifier: Classifier | None = None

    async def __aenter__(self) -> AsyncClassifier:
        arguments, options = self._options
        self._classifier = await self._run(lambda: Classifier(*arguments, **options))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._run(self._ours.close)
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def model(self) -> ServedModel:
        """What the server says of the model."""
        return self._ours.model

    async def classify(self, image: ImageSource, *, top: int = 5) -> list[Prediction]:
        """See `Classifier.classify`."""
        return await self._run(lambda: self._ours.classify(image, top=top))

    async def classify_all(self, images: Iterable[ImageSource], *, top: int = 5) -> list[list[Prediction]]:
        """See `Classifier.classify_all`."""
        return await self._run(lambda: self._ours.classify_all(images, top=top))

    async def infer(self, batch: np.ndarray) -> np.ndarray:
        """See `Classifier.infer`."""
        return await self._run(lambda: self._ours.infer(batch))

    async def stream(self, images: Iterable[ImageSource], **options: Any) -> AsyncIterator[Answer]:
        """See `Classifier.stream`."""
        answers = self._ours.stream(images, **options)
        while (answer := await self._run(lambda: next(answers, _END))) is not _END:
            assert isinstance(answer, Answer)
            yield answer

    @property
    def _ours(self) -> Classifier:
        if self._classifier is None:
            raise RuntimeError("use it as `async with AsyncClassifier(...) as classifier:`")
        return self._classifier

    async def _run(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)
