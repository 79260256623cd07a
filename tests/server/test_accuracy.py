"""A trained network loses no accuracy in the server, in every format and precision of the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.evaluation import Evaluation, evaluate
from seresnext101_triton.client.images import ImageOptions
from seresnext101_triton.client.truth import read_truth
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.quantization import Quantization
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.reference import read_reference
from seresnext101_triton.server.spot_check import spot_check
from tests.conftest import FREE_PORTS, QUIET
from tests.trained import digits_request

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def served(digits, tmp_path_factory) -> Iterator[Server]:
    root: Path = tmp_path_factory.mktemp("accuracy") / "models"
    for formats, precision, quantization in (
        (("torchscript", "onnx", "openvino"), "fp32", None),
        (("openvino",), "bf16", None),
        (("openvino", "onnx"), "int8", Quantization(digits.seen)),
    ):
        export(
            digits_request(
                digits, root, formats=formats, precision=precision, quantization=quantization
            ),
            QUIET,
        )
    with Server(root, ports=FREE_PORTS) as server:
        yield server


@pytest.fixture(scope="module")
def evaluations(digits, served) -> dict[str, Evaluation]:
    truth = read_truth(digits.unseen, 10)
    found = {}
    for model in served.models:
        with Classifier(served.url, model.name) as classifier:
            found[model.name.removeprefix("digits_")] = evaluate(classifier, truth)
    return found


def test_each_answers_a_photograph_as_in_the_gate(served):
    """None of the images that INT8 is judged with is that photograph."""
    for model in served.models:
        assert read_reference(served.repository / model.name / "1") is not None
        spot_check(served.launch, model.name, 1)


def accuracy(evaluation: Evaluation) -> float:
    assert not evaluation.failed
    assert len(evaluation.predictions) == 899
    return 100 * evaluation.accuracy(1).value


def test_it_has_learnt(evaluations):
    assert set(evaluations) == {
        "torchscript",
        "onnx",
        "openvino",
        "openvino_bf16",
        "openvino_int8",
        "onnx_int8",
    }
    assert accuracy(evaluations["onnx"]) >= 97


def test_a_fast_resize_costs_no_accuracy(digits, served, evaluations):
    options = ImageOptions(fast=True)
    with Classifier(served.url, "digits_onnx", image_options=options) as classifier:
        fast = evaluate(classifier, read_truth(digits.unseen, 10))
    assert fast.inexact == ["fast"]
    assert abs(accuracy(fast) - accuracy(evaluations["onnx"])) <= 0.5


def test_fp32_formats_name_the_same_classes(evaluations):
    first = evaluations["torchscript"].predictions
    for model in ("onnx", "openvino"):
        assert all(
            found[0].index == first[image][0].index
            for image, found in evaluations[model].predictions.items()
        )


@pytest.mark.parametrize(
    ("model", "points"), [("openvino_bf16", 0.2), ("openvino_int8", 0.5), ("onnx_int8", 0.5)]
)
def test_little_accuracy_is_lost(evaluations, model, points):
    assert accuracy(evaluations[model]) >= accuracy(evaluations["onnx"]) - points


@pytest.mark.parametrize("model", ["openvino", "openvino_bf16", "openvino_int8", "onnx_int8"])
def test_a_request_without_images_changes_no_other_answer(served, model):
    """In every precision, bit for bit, whichever instance answers."""
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32), dtype=np.float32)
    with triton.InferenceServerClient(served.url) as client:

        def ask(batch: np.ndarray) -> np.ndarray:
            tensor = triton.InferInput("INPUT__0", list(batch.shape), "FP32")
            tensor.set_data_from_numpy(batch)
            answer = client.infer(f"digits_{model}", [tensor], client_timeout=600)
            return answer.as_numpy("OUTPUT__0")

        expected = {size: ask(images[:size]) for size in (1, 2)}
        for size in (1, 2, 1, 1, 2):
            for _ in range(2):
                with pytest.raises(InferenceServerException, match=r"holds no image|got 0$"):
                    ask(images[:0])
            for _ in range(2):
                np.testing.assert_array_equal(ask(images[:size]), expected[size])
