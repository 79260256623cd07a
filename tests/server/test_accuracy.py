"""A trained network, exported to every format and precision a CPU serves, is as accurate through the server as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from client import Classifier
from client.evaluation import Evaluation, evaluate, read_truth
from export.pipeline import export
from export.quantization import Quantization
from server.launcher import Server
from tests.conftest import FREE_PORTS, QUIET
from tests.trained import digits_request


@pytest.fixture(scope="module")
def evaluations(digits, tmp_path_factory) -> dict[str, Evaluation]:
    root: Path = tmp_path_factory.mktemp("accuracy") / "models"
    for formats, precision, quantization in (
        (("torchscript", "onnx", "openvino"), "fp32", None),
        (("openvino",), "bf16", None),
        (("openvino", "onnx"), "int8", Quantization(digits.seen)),
    ):
        export(digits_request(digits, root, formats=formats, precision=precision, quantization=quantization), QUIET)
    truth = read_truth(digits.unseen, 10)
    with Server(root, ports=FREE_PORTS) as server:
        found = {}
        for folder in sorted(root.iterdir()):
            with Classifier(server.url, folder.name) as classifier:
                found[folder.name.removeprefix("digits_")] = evaluate(classifier, truth)
    return found


def accuracy(evaluation: Evaluation) -> float:
    assert not evaluation.failed
    assert len(evaluation.predictions) == 899
    return 100 * evaluation.accuracy(1).value


def test_it_has_learnt(evaluations):
    assert set(evaluations) == {"torchscript", "onnx", "openvino", "openvino_bf16", "openvino_int8", "onnx_int8"}
    assert accuracy(evaluations["onnx"]) >= 97


def test_fp32_formats_name_the_same_classes(evaluations):
    first = evaluations["torchscript"].predictions
    for model in ("onnx", "openvino"):
        assert all(found[0].index == first[image][0].index for image, found in evaluations[model].predictions.items())


@pytest.mark.parametrize(("model", "points"), [("openvino_bf16", 0.2), ("openvino_int8", 0.5), ("onnx_int8", 0.5)])
def test_little_accuracy_is_lost(evaluations, model, points):
    assert accuracy(evaluations[model]) >= accuracy(evaluations["onnx"]) - points
