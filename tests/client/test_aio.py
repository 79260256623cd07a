"""The client for asyncio."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from client import AsyncClassifier, Classifier
from client.errors import ModelUnavailable
from client.images import sample_photographs


def test_it_answers_as_the_other_does(server):
    with Classifier(server.url, "tiny_onnx") as classifier:
        expected = classifier.classify_all(sample_photographs())
        batch = np.stack([classifier.prepare(path) for path in sample_photographs()])
        output = classifier.infer(batch)

    async def ask():
        async with AsyncClassifier(server.url, "tiny_onnx") as classifier:
            one_by_one = await asyncio.gather(*(classifier.classify(path) for path in sample_photographs()))
            together = await classifier.classify_all(sample_photographs())
            streamed = [answer.predictions async for answer in classifier.stream(sample_photographs())]
            np.testing.assert_array_equal(await classifier.infer(batch), output)
            return classifier.model.name, one_by_one, together, streamed

    assert asyncio.run(ask()) == ("tiny_onnx", expected, expected, expected)


def test_the_event_loop_goes_on(server):
    async def ask():
        beats = 0

        async def beat():
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.001)

        async with AsyncClassifier(server.url, "tiny_onnx") as classifier:
            task = asyncio.create_task(beat())
            await classifier.classify_all(sample_photographs() * 10)
            task.cancel()
        return beats

    assert asyncio.run(ask()) > 10


def test_errors_are_the_same(server):
    async def ask():
        async with AsyncClassifier(server.url, "cats"):
            pass

    with pytest.raises(ModelUnavailable):
        asyncio.run(ask())
    with pytest.raises(RuntimeError, match="async with"):
        _ = AsyncClassifier(server.url).model
