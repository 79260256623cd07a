"""Streams against a real server: an error belongs to one image, and requests are bounded."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from seresnext101_triton.client import AsyncClassifier, Classifier
from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.decoding import Prediction, decode
from seresnext101_triton.client.errors import (
    AnswerError,
    ContractError,
    ImageError,
    ModelUnavailable,
    UsageError,
)
from seresnext101_triton.server.launcher import Server
from tests.conftest import FREE_PORTS, write_model

BRIGHT, DARK = Image.new("RGB", (8, 8), (200, 100, 0)), Image.new("RGB", (8, 8), (1, 2, 3))


def roots() -> bytes:
    """An ONNX model: the square root of each channel's mean, which is NaN for what is dark."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["INPUT__0"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("Sqrt", ["mean"], ["OUTPUT__0"]),
        ],
        "roots",
        [helper.make_tensor_value_info("INPUT__0", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("OUTPUT__0", TensorProto.FLOAT, ["batch", 3])],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    ).SerializeToString()


@pytest.fixture(scope="module")
def roots_server(tmp_path_factory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("roots")
    contract = Preprocessing(
        resize=8, crop=8, mean=(0.1, -1, -1), std=(1.0, 1.0, 1.0)
    ).to_parameters()
    for kind in ("logits", "probabilities"):
        given = contract | {"output.kind": kind, "weights": "trained"}
        parameters = "".join(
            f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
            for key, value in given.items()
        )
        labels = 'label_filename: "labels.txt"'
        config = f"""
            platform: "onnxruntime_onnx"  max_batch_size: 4
            input {{ name: "INPUT__0" data_type: TYPE_FP32 dims: [3, 8, 8] }}
            output {{ name: "OUTPUT__0" data_type: TYPE_FP32 dims: [3] {labels} }}
            instance_group {{ kind: KIND_CPU count: 1 }}
            {parameters}"""
        write_model(repository, kind, config, {"model.onnx": roots()})
        (repository / kind / "labels.txt").write_bytes(b"red: the first\r\ncaf\xe9\n\x1b[31mblue\n")
    with Server(repository, ports=FREE_PORTS) as running:
        yield running


@pytest.fixture
def classifier(roots_server) -> Iterator[Classifier]:
    with Classifier(roots_server.url, "logits", follow=False) as classifier:
        yield classifier


def test_nan_is_an_error_of_its_image_alone(classifier):
    answers = list(classifier.stream([BRIGHT, DARK, BRIGHT, DARK], batch=4))
    assert [answer.error is None for answer in answers] == [True, False, True, False]
    assert isinstance(answers[1].error, AnswerError)
    labels = {one.index: one.label for one in answers[0].predictions}
    assert labels == {0: "red: the first", 1: "caf\ufffd", 2: "\\x1b[31mblue"}
    assert sum(one.probability for one in answers[0].predictions) == pytest.approx(1)
    with pytest.raises(AnswerError, match="the model answers -?nan"):
        classifier.classify(DARK)
    with pytest.raises(AnswerError):
        classifier.classify_batch(np.stack([classifier.prepare(BRIGHT), classifier.prepare(DARK)]))


def test_nan_that_is_called_a_probability(roots_server):
    with Classifier(roots_server.url, "probabilities") as classifier:
        with pytest.raises(AnswerError):
            classifier.classify(DARK, top=3)
        with pytest.raises(AnswerError, match="calls it a probability"):
            classifier.classify(BRIGHT)  # a root above 1


def test_no_command_prints_nan_or_a_traceback(roots_server, tmp_path):
    BRIGHT.save(tmp_path / "bright.png"), DARK.save(tmp_path / "dark.png")
    asking = [sys.executable, "-m", "client"]
    server = ["--url", roots_server.url, "--model", "logits"]
    printed = subprocess.run(
        [*asking, "classify", str(tmp_path), "--json", *server], capture_output=True, text=True
    )
    images = json.loads(printed.stdout, parse_constant=pytest.fail)[0]["images"]
    assert ["predictions" in image for image in images] == [True, False]
    assert printed.returncode == 1 and "Traceback" not in printed.stderr
    lines = subprocess.run(
        [*asking, "bulk", str(tmp_path), "--output", str(tmp_path / "a.jsonl"), *server],
        capture_output=True,
        text=True,
    )
    records = [
        json.loads(line, parse_constant=pytest.fail)
        for line in (tmp_path / "a.jsonl").read_text().splitlines()
    ]
    assert [
        "error" in record for record in sorted(records, key=lambda record: record["image"])
    ] == [False, True]
    assert lines.returncode == 1 and "Traceback" not in lines.stderr


@pytest.mark.parametrize(
    "fault", [RuntimeError("a bug"), MemoryError(), RecursionError("deep"), KeyError("x")]
)
def test_any_exception_while_one_image_is_prepared_is_its_own(classifier, monkeypatch, fault):
    real = Preprocessing.prepared

    def sometimes(self, image, **options):
        if image.getpixel((0, 0)) == (1, 2, 3):
            raise fault
        return real(self, image, **options)

    monkeypatch.setattr(Preprocessing, "prepared", sometimes)
    answers = list(classifier.stream([BRIGHT, DARK, b"nothing", BRIGHT], batch=4))
    assert [answer.error is None for answer in answers] == [True, False, False, True]
    assert isinstance(answers[1].error, ImageError)
    assert type(fault).__name__ in str(answers[1].error)
    assert answers[1].error.__cause__ is fault


def test_a_subclass_that_prepares_with_a_bug_costs_its_images_only(classifier, monkeypatch):
    real = classifier.prepare
    monkeypatch.setattr(
        classifier, "prepare", lambda image: real(image) if image is BRIGHT else {}[image]
    )
    assert [
        answer.error is None for answer in classifier.stream([BRIGHT, "x", BRIGHT], batch=3)
    ] == [True, False, True]


def test_any_exception_while_one_answer_is_decoded_is_its_own(classifier, monkeypatch):
    real, seen = decode, []

    def sometimes(*arguments):
        seen.append(arguments)
        return real(*arguments) if len(seen) != 2 else dict[str, list[Prediction]]()["a bug"]

    monkeypatch.setattr("seresnext101_triton.client.classifier.decode", sometimes)
    answers = list(classifier.stream([BRIGHT] * 3, batch=3))
    assert [answer.error is None for answer in answers] == [True, False, True]
    assert isinstance(answers[1].error.__cause__, KeyError)


def test_an_answer_of_another_shape_is_one_error(classifier, monkeypatch):
    real = classifier._connection.infer_top
    monkeypatch.setattr(
        classifier._connection, "infer_top", lambda *arguments: real(*arguments).reshape(1, -1)
    )
    with pytest.raises(ContractError, match=r"answered \[1, 6\] where \[2, 3\]"):
        list(classifier.stream([BRIGHT] * 2, batch=2))


def test_an_error_while_finding_images_comes_after_the_answers_before_it(classifier):
    def images():
        yield from [BRIGHT] * 7
        raise PermissionError("a folder")

    answers = []
    with pytest.raises(PermissionError, match="a folder"):
        answers.extend(classifier.stream(images(), batch=2))
    assert [len(answer.predictions) for answer in answers] == [3] * 7


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("limit", [1, 3])
def test_requests_in_flight_and_images_ahead_are_bounded(classifier, monkeypatch, limit, ordered):
    """The first request is held until every worker has prepared its batch.

    By then every request that the limit allows has been sent.
    """
    workers = limit + 2
    ask, prepare = classifier._connection.infer_top, classifier.prepare
    lock, prepared = threading.Lock(), threading.Semaphore(0)
    released = threading.Event()
    now = most = asked = 0

    def counted(*arguments):
        nonlocal now, most, asked
        with lock:
            now, asked = now + 1, asked + 1
            most, first = max(most, now), asked == 1
        if first:
            for _ in range(2 * workers):
                assert prepared.acquire(timeout=600)
            # The pause makes it more probable that a request over the limit is seen.
            time.sleep(0.2)
            released.set()
        assert released.wait(600)
        answer = ask(*arguments)
        with lock:
            now -= 1
        return answer

    def noted(image):
        tensor = prepare(image)
        prepared.release()
        return tensor

    monkeypatch.setattr(classifier._connection, "infer_top", counted)
    monkeypatch.setattr(classifier, "prepare", noted)
    monkeypatch.setattr(
        "seresnext101_triton.client.pipeline.os.sched_getaffinity", lambda _: {0, 1}
    )
    taken = []

    def images():
        for number in range(24 * limit):
            taken.append(number)
            yield BRIGHT

    answered = 0
    for _ in classifier.stream(images(), batch=2, in_flight=limit, ordered=ordered):
        answered += 1
        assert len(taken) - answered <= 2 * workers
    assert (most, asked, answered) == (limit, 12 * limit, 24 * limit)


@pytest.mark.parametrize("ordered", [True, False])
def test_answers_are_in_order_where_that_is_asked_for(classifier, monkeypatch, ordered):
    """The first image's request is held until another request has its answer.

    Where the order is not asked for, it is held until the stream has given that answer.
    """
    real, overtaken = classifier._connection.infer_top, threading.Event()
    images = [Image.new("RGB", (8, 8), (30 + 10 * number, 0, 0)) for number in range(20)]
    expected = [classifier.classify(image) for image in images]
    first = classifier.prepare(images[0])

    def delayed(model, batch, count):
        held = np.array_equal(batch[0], first)
        if held:
            assert overtaken.wait(600)
        answer = real(model, batch, count)
        if ordered and not held:
            overtaken.set()
        return answer

    monkeypatch.setattr(classifier._connection, "infer_top", delayed)
    answers = []
    for answer in classifier.stream(images, batch=1, in_flight=3, ordered=ordered):
        answers.append(answer)
        overtaken.set()
    numbers = [
        next(number for number, image in enumerate(images) if image is answer.image)
        for answer in answers
    ]
    assert sorted(numbers) == list(range(20))
    assert (numbers == sorted(numbers)) is ordered
    assert all(
        answer.predictions == expected[number]
        for number, answer in zip(numbers, answers, strict=True)
    )


def test_nothing_is_asked_any_more_once_a_stream_is_left(classifier, monkeypatch):
    real, asked, held, full = (
        classifier._connection.infer_top,
        [],
        threading.Event(),
        threading.Event(),
    )

    first = classifier.prepare(BRIGHT)

    def noted(model, batch, *arguments):
        asked.append(1)
        if len(asked) >= 3:
            full.set()
        # Any thread may ask first, and the first image is the one that is answered.
        if not np.array_equal(batch[0], first):
            held.wait()
        return real(model, batch, *arguments)

    monkeypatch.setattr(classifier._connection, "infer_top", noted)
    stream = classifier.stream([BRIGHT, *[DARK] * 99], batch=1, in_flight=2)
    next(stream)
    # The first has its answer, two are in flight, and the others wait for a place.
    assert full.wait(600)
    stream.close()
    held.set()
    for thread in threading.enumerate():
        if thread.name.startswith("classify"):
            thread.join(60)
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("batch", "in_flight"), [(0, None), (5, None), (-1, None), (1, 0), (1, -1)]
)
def test_batches_and_requests_out_of_range(classifier, batch, in_flight):
    with pytest.raises(UsageError, match="`batch` must be|`in_flight` must be"):
        list(classifier.stream([BRIGHT], batch=batch, in_flight=in_flight))


def test_asyncio_has_the_same_answers_and_can_be_left_early(roots_server):
    before = threading.active_count()

    async def ask():
        async with AsyncClassifier(roots_server.url, "logits") as classifier:
            answers = [
                answer async for answer in classifier.stream([BRIGHT, DARK, b"nothing"], batch=1)
            ]
            stream = classifier.stream([BRIGHT] * 50, batch=1)
            async for _ in stream:
                break
            await stream.aclose()
            with pytest.raises(AnswerError):
                await classifier.classify(DARK)
            return [type(answer.error) for answer in answers]

    assert asyncio.run(ask()) == [type(None), AnswerError, ImageError]
    gc.collect()  # gRPC ends its thread for asyncio with the last of its objects
    for thread in threading.enumerate():
        if thread.name.startswith("classify") or "_poll_wrapper" in thread.name:
            thread.join(60)
    assert threading.active_count() <= before


def test_asyncio_without_a_model_leaves_no_thread(roots_server):
    async def ask():
        async with AsyncClassifier(roots_server.url, "cats"):
            pass

    with pytest.raises(ModelUnavailable):
        asyncio.run(ask())
    for thread in threading.enumerate():
        if thread.name.startswith("classify"):
            thread.join(60)
            assert not thread.is_alive()


def test_predictions_are_plain_values(classifier):
    assert set(asdict(classifier.classify(BRIGHT)[0])) == {"index", "label", "probability"}
