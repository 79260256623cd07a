"""The Python-based backends in the real server."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from client import Classifier
from client.connection import Connection
from client.images import sample_photographs


def ask(client: triton.InferenceServerClient, model: str, batch: np.ndarray) -> np.ndarray:
    tensor = triton.InferInput("INPUT__0", list(batch.shape), "FP32")
    tensor.set_data_from_numpy(batch)
    return client.infer(model, [tensor]).as_numpy("OUTPUT__0")


@pytest.fixture
def client(foreign_server):
    with triton.InferenceServerClient(foreign_server.url) as client:
        yield client


def test_a_minimal_onnx_config_is_completed_from_the_artifact(client):
    config = client.get_model_config("foreign").config
    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [("INPUT__0", [3, 4, 4])]
    assert [(tensor.name, list(tensor.dims)) for tensor in config.output] == [("OUTPUT__0", [2, 2, 2])]
    assert config.max_batch_size == 4
    assert config.HasField("dynamic_batching")
    np.testing.assert_array_equal(ask(client, "foreign", np.ones((3, 3, 4, 4), np.float32)), np.full((3, 2, 2, 2), 27))


def test_a_minimal_torchscript_config_is_completed_from_the_artifact(client, server):
    config = client.get_model_config("minimal").config
    assert list(config.input[0].dims) == [3, 64, 64]
    assert list(config.output[0].dims) == [1000]
    with Classifier(server.url, "tiny_torchscript") as classifier:
        batch = classifier.prepare(sample_photographs()[0])[None]
        np.testing.assert_array_equal(ask(client, "minimal", batch), classifier.infer(batch))


def test_a_bad_request_ends_alone_and_its_neighbours_live(client):
    """A 2x2 image is within the config's dims, and too small for the convolution."""
    good = np.ones((1, 3, 3, 3), np.float32)
    bad = np.ones((1, 3, 2, 2), np.float32)

    def attempt(batch: np.ndarray) -> np.ndarray | str:
        try:
            return ask(client, "picky", batch)
        except InferenceServerException as error:
            return error.message()

    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(attempt, [good, bad, good, bad, good]))
    for answer in answers[::2]:
        np.testing.assert_array_equal(answer, np.full((1, 2, 1, 1), 27))
    for answer in answers[1::2]:
        assert isinstance(answer, str)
        assert "Conv" in answer


def test_concurrent_requests_become_one_batch(client):
    """Eight requests within the queue delay are run together: fewer executions than requests, each with its own answer."""
    before = client.get_inference_statistics("picky").model_stats[0]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda value: ask(client, "picky", np.full((1, 3, 3, 3), value, np.float32)), range(8)))

    deadline = time.monotonic() + 10  # Triton counts a request after it has answered it
    while (after := client.get_inference_statistics("picky").model_stats[0]).inference_count < before.inference_count + 8:
        assert time.monotonic() < deadline
    assert [answer.ravel().tolist() for answer in answers] == [[27.0 * value] * 2 for value in range(8)]
    assert after.inference_count - before.inference_count == 8
    assert after.execution_count - before.execution_count < 8


def test_no_request_is_left_lying_in_the_queue(server):
    """Four clients that ask without a pause: with a queue policy, Triton's batcher finds some requests half a second late."""
    batch = np.zeros((1, 3, 64, 64), np.float32)

    def ask_on(_: int) -> list[float]:
        times = []
        with triton.InferenceServerClient(server.url) as own:
            for _ in range(150):
                started = time.monotonic()
                ask(own, "tiny_onnx", batch)
                times.append(time.monotonic() - started)
        return times

    with ThreadPoolExecutor(4) as pool:
        slow = [seconds for times in pool.map(ask_on, range(4)) for seconds in times if seconds > 0.5]
    assert len(slow) < 3  # with a policy: dozens


def test_every_model_was_warmed_up_at_batch_1_and_at_the_maximum(server):
    """Warmup runs are not counted as inferences; the log of a model's readiness comes after them, so readiness is the proof."""
    with Connection(server.url) as connection, triton.InferenceServerClient(server.url) as raw:
        for model in connection.ready_models():
            config = raw.get_model_config(model).config
            batches = [
                sample.batch_size if config.max_batch_size else tensor.dims[0]
                for sample in config.model_warmup
                for tensor in sample.inputs.values()
            ]
            assert batches == [1, 4]
        assert connection.is_ready()
