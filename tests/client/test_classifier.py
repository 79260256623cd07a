"""The client against the real server."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.classifier import URL_VARIABLE
from seresnext101_triton.client.connection import Connection
from seresnext101_triton.client.contract import OutputKind
from seresnext101_triton.client.errors import (
    ClientError,
    ContractError,
    ImageError,
    ModelUnavailable,
    RequestRejected,
    ServerUnreachable,
)
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.client.served import ServedModel
from seresnext101_triton.server import runtimes
from tests.conftest import PREPROCESSING

MODELS = ("tiny_torchscript", "tiny_onnx", "logits_torchscript")


@pytest.fixture(params=MODELS)
def classifier(server, request):
    with Classifier(server.url, request.param) as classifier:
        yield classifier


@pytest.fixture
def photographs(classifier):
    return np.stack([classifier.prepare(path) for path in sample_photographs()])


def artifact_of(exported, model):
    return next(outcome for outcome in exported if outcome.model == model)


def run_artifact(exported, model, batch):
    """The artifact's own answer, without a server."""
    outcome = artifact_of(exported, model)
    runtime = {"torchscript": "torchscript", "onnx": "onnxruntime", "openvino": "openvino"}[
        outcome.manifest.format
    ]
    return runtimes.load(runtime, outcome.artifact, {}).run(batch)


def test_the_served_answer_is_the_artifacts_own_bit_for_bit(classifier, photographs, exported):
    for size in (1, 2, 4):
        expected = run_artifact(exported, classifier.model.name, photographs[:size])
        np.testing.assert_array_equal(classifier.infer(photographs[:size]), expected)


def test_top_5_is_that_of_the_output(classifier, photographs, exported):
    output = run_artifact(exported, classifier.model.name, photographs).astype(np.float64)
    if classifier.model.output_kind is OutputKind.LOGITS:
        output = np.exp(output - output.max(axis=1, keepdims=True))
        output /= output.sum(axis=1, keepdims=True)
    for predictions, row in zip(classifier.classify_all(sample_photographs()), output, strict=True):
        assert [prediction.index for prediction in predictions] == list(np.argsort(-row)[:5])
        assert [prediction.probability for prediction in predictions] == pytest.approx(
            -np.sort(-row)[:5], abs=2e-6
        )


def test_labels_are_the_models_own(server):
    with Classifier(server.url, "logits_torchscript") as classifier:
        predictions = classifier.classify(sample_photographs()[0], top=10)
    assert sorted((prediction.index, prediction.label) for prediction in predictions) == [
        (n, f"number {n}") for n in range(10)
    ]
    assert sum(prediction.probability for prediction in predictions) == pytest.approx(1)
    with Classifier(server.url, "tiny_onnx") as classifier:
        everything = classifier.classify(sample_photographs()[0], top=1000)
    labels = {prediction.index: prediction.label for prediction in everything}
    assert (len(labels), labels[0], labels[999]) == (1000, "tench", "toilet tissue")


def test_more_images_than_the_maximum_batch_are_answered_in_order(classifier):
    nine = (sample_photographs() * 3)[:9]
    assert classifier.model.max_batch == 4
    together = [answer[0] for answer in classifier.classify_all(nine, top=1)]
    alone = [classifier.classify(path, top=1)[0] for path in nine]
    assert [prediction.index for prediction in together] == [
        prediction.index for prediction in alone
    ]
    assert [p.probability for p in together] == pytest.approx(
        [p.probability for p in alone], abs=1e-5
    )


def test_more_classes_than_there_are(server):
    with Classifier(server.url, "logits_torchscript") as classifier:
        assert len(classifier.classify(sample_photographs()[0], top=99)) == 10
        with pytest.raises(ClientError, match="at least 1"):
            classifier.classify(sample_photographs()[0], top=0)


def test_no_images_is_no_answers(classifier):
    assert classifier.classify_all([]) == []


def test_the_contract_comes_from_the_server(classifier):
    served = classifier.model
    assert served.preprocessing == PREPROCESSING
    assert served.untrained
    assert served.classes == (10 if served.name.startswith("logits") else 1000)


def test_a_batch_over_the_maximum_is_rejected_and_the_server_lives(classifier, photographs):
    with pytest.raises(RequestRejected, match="batch-size must be <= 4"):
        classifier.infer(np.concatenate([photographs, photographs[:1]]))
    assert classifier.infer(photographs).shape[0] == 4


def test_a_wrong_shape_is_rejected(classifier):
    with pytest.raises(RequestRejected, match="unexpected shape"):
        classifier.infer(np.zeros((1, 3, 32, 32), np.float32))


def test_an_unknown_model_names_those_that_are_served(server):
    served = "logits_torchscript, tiny_onnx, tiny_openvino, tiny_torchscript"
    with pytest.raises(ModelUnavailable, match=f"does not serve model 'cats'.*It serves: {served}"):
        Classifier(server.url, "cats")


def test_an_unknown_version(server):
    with pytest.raises(ModelUnavailable, match="version 7"):
        Classifier(server.url, "tiny_onnx", version="7")


def test_several_models_and_no_choice(server):
    with pytest.raises(ModelUnavailable, match="serves 4 models; choose one"):
        Classifier(server.url)


def test_the_url_may_come_from_the_environment(server, monkeypatch):
    monkeypatch.setenv(URL_VARIABLE, server.url)
    with Classifier(model="tiny_onnx") as classifier:
        assert len(classifier.classify(sample_photographs()[0])) == 5


def test_a_server_that_is_not_there():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(
            ServerUnreachable,
            match=f"no Triton server answers at {url}. Start one with `python -m server`",
        ):
            Classifier(url, "tiny_onnx")
        with Connection(url) as connection:
            assert not connection.is_live()


@pytest.mark.parametrize(
    ("model", "reason"),
    [("full", "Exceeds maximum queue size"), ("slow", "Request timeout expired")],
)
def test_load_that_the_server_sheds_is_a_rejection_and_no_dead_server(
    foreign_server, model, reason
):
    """Both models wait a second for a batch of four, and two requests never fill it.

    The queue of `full` holds one request. The queue of `slow` rejects a request after a
    millisecond.
    """
    served = ServedModel(
        model,
        "1",
        "INPUT__0",
        np.dtype(np.float32),
        "OUTPUT__0",
        2,
        4,
        1,
        PREPROCESSING,
        OutputKind.LOGITS,
        untrained=False,
    )

    def ask(_: int) -> str:
        with Connection(foreign_server.url) as connection:
            try:
                return str(connection.infer(served, np.ones((1, 3, 3, 3), np.float32)).ravel())
            except RequestRejected as error:
                return str(error)

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(ask, range(2)))
    assert any(f"refused the request: {reason}" in answer for answer in answers), answers


def test_an_image_that_cannot_be_read(classifier, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        classifier.classify_all([sample_photographs()[0], tmp_path / "bad.jpg"])


def test_a_model_without_the_contract(foreign_server):
    with pytest.raises(
        ContractError, match="'foreign'.*'output.kind' is missing.*python -m export"
    ):
        Classifier(foreign_server.url, "foreign")
