"""The client for asyncio."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from seresnext101_triton.client import Answer, AsyncClassifier, Classifier, TransportOptions
from seresnext101_triton.client.connection import AsyncConnection, Connection
from seresnext101_triton.client.errors import ImageError, ModelUnavailable, ServerUnreachable
from seresnext101_triton.client.images import sample_photographs


def regions() -> list[Path]:
    """The regions of shared memory that clients of this process have."""
    return list(Path("/dev/shm").glob(f"client-{os.getpid()}-*"))


@pytest.mark.parametrize("options", [{}, {"shared_memory": True}, {"compression": "gzip"}], ids=str)
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_it_answers_as_the_other_does(server, protocol, options):
    url = f"127.0.0.1:{getattr(server.ports, protocol)}"
    with Classifier(server.url, "tiny_onnx") as classifier:
        expected = classifier.classify_all(sample_photographs())
        batch = np.stack([classifier.prepare(path) for path in sample_photographs()])
        output = classifier.infer(batch)

    async def ask():
        async with AsyncClassifier(
            url, "tiny_onnx", transport_options=TransportOptions(protocol, **options)
        ) as classifier:
            one_by_one = await asyncio.gather(
                *(classifier.classify(path) for path in sample_photographs())
            )
            together = await classifier.classify_all(sample_photographs())
            streamed = [
                answer.predictions async for answer in classifier.stream(sample_photographs())
            ]
            unordered = [
                answer
                async for answer in classifier.stream(sample_photographs(), batch=1, ordered=False)
            ]
            assert {str(answer.image) for answer in unordered} == set(
                map(str, sample_photographs())
            )
            assert bool(regions()) is options.get("shared_memory", False)
            np.testing.assert_array_equal(await classifier.infer(batch), output)
            return classifier.model.name, one_by_one, together, streamed

    assert asyncio.run(ask()) == ("tiny_onnx", expected, expected, expected)
    assert not regions()


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


def test_a_request_takes_no_thread(server):
    """Many requests at once, and no more threads than those that decode and gRPC's own."""

    async def ask(protocol):
        url = f"127.0.0.1:{getattr(server.ports, protocol)}"
        async with AsyncClassifier(
            url, "tiny_onnx", transport_options=TransportOptions(protocol), in_flight=64
        ) as classifier:
            batch = np.zeros((1, 3, 64, 64), np.float32)
            answers = await asyncio.gather(*(classifier.infer(batch) for _ in range(64)))
            assert all((answer == answers[0]).all() for answer in answers)
            return threading.active_count()

    before = threading.active_count()
    for protocol in ("grpc", "http"):
        assert asyncio.run(ask(protocol)) <= before + 1


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_call_that_is_cancelled_ends_and_others_go_on(server, protocol):
    async def ask():
        url = f"127.0.0.1:{getattr(server.ports, protocol)}"
        async with AsyncClassifier(
            url, "tiny_onnx", transport_options=TransportOptions(protocol)
        ) as classifier:
            calls = [
                asyncio.create_task(classifier.classify(path)) for path in sample_photographs()
            ]
            await asyncio.sleep(0)
            calls[0].cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            return [isinstance(result, asyncio.CancelledError) for result in results]

    assert asyncio.run(ask()) == [True, *[False] * (len(sample_photographs()) - 1)]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_where_nobody_listens_it_says_the_same(protocol):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"127.0.0.1:{unused.getsockname()[1]}"
    options = TransportOptions(protocol, retries=1)
    with Connection(url, options) as connection, pytest.raises(ServerUnreachable) as expected:
        connection.models()

    async def ask():
        async with AsyncConnection(url, options) as connection:
            assert not await connection.is_live()
            with pytest.raises(ServerUnreachable, match="is not ready|no Triton server answers"):
                await connection.wait_until_ready(timeout_s=0.1)
            await connection.models()

    with pytest.raises(ServerUnreachable) as caught:
        asyncio.run(ask())
    assert str(caught.value) == str(expected.value)


def test_an_error_of_the_images_comes_after_the_answers_before_it(server):
    def images():
        yield from sample_photographs()[:2]
        raise PermissionError("a folder")

    async def ask():
        async with AsyncClassifier(server.url, "tiny_onnx") as classifier:
            with pytest.raises(PermissionError, match="a folder"):
                async for answer in classifier.stream(images()):
                    answers.append(answer)  # noqa: PERF401  (the stream raises)

    answers: list[Answer] = []
    asyncio.run(ask())
    assert len(answers) == 2


def test_the_other_calls_are_the_same(server, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with Classifier(server.url, "tiny_onnx") as classifier:
        batch = np.stack([classifier.prepare(path) for path in sample_photographs()])
        expected = classifier.classify_batch(batch, top=2)
        with pytest.raises(ImageError) as said:
            classifier.classify(broken)

    async def ask():
        async with AsyncClassifier(server.url, "tiny_onnx") as classifier:
            await classifier.wait_until_ready()
            with pytest.raises(ImageError, match=re.escape(str(said.value))):
                await classifier.classify_all([sample_photographs()[0], broken])
            with pytest.raises(AttributeError, match="'AsyncClassifier' .* no attribute 'modle'"):
                _ = classifier.modle
            return await classifier.classify_batch(batch, top=2)

    assert asyncio.run(ask()) == expected
    assert {len(each) for each in expected} == {2}


def test_errors_are_the_same(server):
    async def ask():
        async with AsyncClassifier(server.url, "cats"):
            pass

    with pytest.raises(ModelUnavailable):
        asyncio.run(ask())
    with pytest.raises(RuntimeError, match="async with"):
        _ = AsyncClassifier(server.url).model
