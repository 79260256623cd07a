"""The Python-based backends in the real server."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.server.launcher import Server
from tests.conftest import FREE_PORTS


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
    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [
        ("INPUT__0", [3, 4, 4])
    ]
    assert [(tensor.name, list(tensor.dims)) for tensor in config.output] == [
        ("OUTPUT__0", [2, 2, 2])
    ]
    assert config.max_batch_size == 4
    assert config.HasField("dynamic_batching")
    np.testing.assert_array_equal(
        ask(client, "foreign", np.ones((3, 3, 4, 4), np.float32)), np.full((3, 2, 2, 2), 27)
    )


def test_a_torchscript_config_of_the_fewest_lines_is_served(client, server):
    """The C++ backend completes none, so it names its tensors: tests/server/test_loading.py."""
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
    """Eight requests within the queue delay run together, in fewer executions than requests.

    Each gets its own answer. No other test uses this model. Triton counts a request after it has
    answered it, so the test waits for the counts.
    """
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda value: ask(client, "together", np.full((1, 3, 3, 3), value, np.float32)),
                range(8),
            )
        )
    assert [answer.ravel().tolist() for answer in answers] == [
        [27.0 * value] * 2 for value in range(8)
    ]
    for _ in range(6000):
        found = client.get_inference_statistics("together").model_stats[0]
        if found.inference_count == 8:
            break
        time.sleep(0.01)
    assert found.inference_count == 8
    assert found.execution_count < 8
    assert max(batch.batch_size for batch in found.batch_stats) > 1


def test_no_request_is_left_lying_in_the_queue(server):
    """Four clients that ask without a pause get their answers in less than half a second.

    With a queue policy, Triton's batcher delays some requests by half a second.
    """
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
        slow = [
            seconds for times in pool.map(ask_on, range(4)) for seconds in times if seconds > 0.5
        ]
    assert len(slow) < 3  # with a policy: dozens


MODELS = ("tiny_torchscript", "tiny_onnx", "tiny_openvino", "logits_torchscript")


def test_every_model_has_run_its_warmups_before_it_is_ready(exported, tmp_path):
    """Triton counts one run for each sample and instance, with the sample's number of images."""
    repository = exported[0].folder.parent.parent
    with (
        Server(repository, ports=FREE_PORTS) as fresh,
        triton.InferenceServerClient(fresh.url) as raw,
    ):
        statistics = {model.name: model for model in raw.get_inference_statistics().model_stats}
        assert set(statistics) == set(MODELS)
        for name, found in statistics.items():
            config = raw.get_model_config(name).config
            instances = sum(group.count for group in config.instance_group)
            assert len(config.model_warmup) == 2
            assert found.execution_count == 2 * instances
            batches = {batch.batch_size: batch.compute_infer.count for batch in found.batch_stats}
            # Without a batcher Triton counts a request, however many images it brings.
            assert batches == (
                {1: instances, 4: instances} if config.max_batch_size else {1: 2 * instances}
            )
            assert found.inference_stats.fail.count == 0


@pytest.mark.parametrize("model", MODELS)
def test_a_request_without_images_is_refused_and_harms_no_other(server, model):
    """In every order with good requests, which are answered as they were before, bit for bit."""
    generator = np.random.default_rng(0)
    batches = {
        size: generator.standard_normal((size, 3, 64, 64), dtype=np.float32) for size in (0, 1, 2)
    }
    with triton.InferenceServerClient(server.url) as client:
        expected = {size: ask(client, model, batch) for size, batch in batches.items() if size}
        instances = sum(
            group.count for group in client.get_model_config(model).config.instance_group
        )
        for order in sorted(set(permutations((0, 1, 2, 0)))):
            for size in np.repeat(order, instances):
                if size:
                    np.testing.assert_array_equal(ask(client, model, batches[size]), expected[size])
                else:
                    with pytest.raises(
                        InferenceServerException,
                        match=r"holds no image: its input has the shape \[0, 3|got 0$",
                    ):
                        ask(client, model, batches[0])


@pytest.mark.parametrize("model", MODELS)
def test_requests_without_images_among_others_at_the_same_time(server, model):
    good = np.random.default_rng(1).standard_normal((1, 3, 64, 64), dtype=np.float32)
    with triton.InferenceServerClient(server.url) as client, ThreadPoolExecutor(6) as pool:
        expected = ask(client, model, good)

        def attempt(number: int) -> bool:
            try:
                answer = ask(client, model, good[number % 2 :])
            except InferenceServerException:
                return False
            np.testing.assert_allclose(answer, expected, rtol=1e-3, atol=1e-6)  # among neighbours
            return True

        assert list(pool.map(attempt, range(24))) == [True, False] * 12


@pytest.mark.parametrize("axis", [2**32, 2**32 + 1, 2**32 + 2, 2**62, -1])
@pytest.mark.parametrize("model", ["tiny_torchscript", "tiny_onnx"])
def test_a_batch_axis_that_32_bits_cannot_hold(server, model, axis):
    """Triton's core counts in 32 bits: of 2^32 + 1 images it sees 1 and asks for the data of 1.

    The model must go on answering.
    """
    good = np.random.default_rng(2).standard_normal((1, 3, 64, 64), dtype=np.float32)
    with triton.InferenceServerClient(server.url) as client:
        expected = ask(client, model, good)
        tensor = triton.InferInput("INPUT__0", [axis, 3, 64, 64], "FP32")
        tensor._raw_content = good.tobytes()
        try:
            answer = client.infer(model, [tensor]).as_numpy("OUTPUT__0")
        except InferenceServerException:
            pass
        else:
            np.testing.assert_array_equal(answer, expected)
        np.testing.assert_array_equal(ask(client, model, good), expected)


def test_a_model_without_a_batcher_takes_more_images_than_the_maximum_batch(server):
    """Its config cannot state a maximum, and NVIDIA's backend takes more images too.

    The answer for each image is the same as for the image alone.
    """
    images = np.random.default_rng(3).standard_normal((9, 3, 64, 64), dtype=np.float32)
    with triton.InferenceServerClient(server.url) as client:
        alone = np.concatenate([ask(client, "tiny_openvino", image[None]) for image in images])
        np.testing.assert_allclose(
            ask(client, "tiny_openvino", images), alone, rtol=1e-3, atol=1e-7
        )
        with pytest.raises(InferenceServerException, match="must be <= 4"):
            ask(client, "tiny_onnx", images)
