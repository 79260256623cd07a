"""A client that goes on with another version: what it asks, and how often, of a toy server."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from seresnext101_triton.client import Classifier, ModelUnavailable, TransportOptions, connection
from seresnext101_triton.client.errors import RequestRejected
from seresnext101_triton.client.protocols import TRANSPORTS
from seresnext101_triton.client.transport import Inferred
from tests.client.toy_transport import Toy

GONE = InferenceServerException("unknown model 'm'")
OTHER = "7"  # a version that takes other images
RETRIES = 4


class Server:
    """What each request is answered with, and what was asked.

    Attributes:
        served: The version that answers each request, or an error; the last one for all others.
        described: The same of the versions that are described.
        requests: The version that each request for an answer has named.
        descriptions: The version that each question for a description has named.
    """

    def __init__(self) -> None:
        self.served: list[str | Exception] = ["1"]
        self.described: list[str | Exception] = ["1"]
        self.requests: list[str] = []
        self.descriptions: list[str] = []


def latest(values: list[str | Exception]) -> str:
    value = values.pop(0) if len(values) > 1 else values[0]
    if isinstance(value, Exception):
        raise value
    return value


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setitem(TRANSPORTS, "toy", "tests.client.toy_transport")
    monkeypatch.setattr(connection, "_POLL_S", 0.0)
    monkeypatch.setattr("seresnext101_triton.client.failover._pause_s", lambda attempt: 0.0)
    answer, config_of = Toy.infer, Toy.config

    async def versions(toy, model, version):
        server.descriptions.append(version)
        return [latest(server.described)]

    async def config(toy, model, version):
        config = await config_of(toy, model, version)
        if OTHER in (version, *server.described):
            config.input[0].dims[1:] = [9, 9]
            config.parameters["preprocessing.crop"].string_value = "9"
            config.parameters["preprocessing.resize"].string_value = "9"
        return config

    async def infer(toy, inference):
        server.requests.append(inference.version)
        version = latest(server.served)
        if inference.version not in ("", version):
            raise GONE
        return Inferred((await answer(toy, inference)).output, version)

    monkeypatch.setattr(Toy, "versions", versions)
    monkeypatch.setattr(Toy, "config", config)
    monkeypatch.setattr(Toy, "infer", infer)
    return server


@pytest.fixture
def classifier(server):
    """It has been answered by version 1."""
    with Classifier("toy://a", "m", transport_options=TransportOptions(retries=RETRIES)) as made:
        made.classify(np.zeros((8, 8, 3), np.uint8))
        server.requests.clear()
        server.descriptions.clear()
        yield made


def ask(classifier: Classifier) -> str:
    classifier.classify(np.zeros((8, 8, 3), np.uint8))
    return classifier.model.version


def test_the_new_version_answers_at_once_and_is_described_once(server, classifier):
    server.served = ["2"]
    assert [ask(classifier) for _ in range(3)] == ["2"] * 3
    assert (server.requests, server.descriptions) == ([""] * 3, ["2"])


def test_two_versions_by_turns_are_described_once(server, classifier):
    server.served = ["1", "2"] * 3
    assert [ask(classifier) for _ in range(6)] == ["1", "2"] * 3
    assert (server.requests, server.descriptions) == ([""] * 6, ["2", "1"])


def test_an_answer_of_a_version_that_is_used_otherwise_is_refused(server, classifier):
    server.served = [OTHER]
    with pytest.raises(ModelUnavailable, match="version 1 .* was replaced by version 7, which"):
        ask(classifier)


def test_a_request_that_another_version_refuses_is_explained(server, classifier):
    server.served = [InferenceServerException("unexpected shape", status="INVALID")]
    with pytest.raises(RequestRejected, match="unexpected shape"):
        ask(classifier)
    server.described = [OTHER]
    with pytest.raises(ModelUnavailable, match="was replaced by version 7"):
        ask(classifier)


def test_a_model_that_is_gone_is_waited_for_only_once(server, classifier):
    """It is described as often as `retries` says; its images are not sent again each time."""
    server.served, server.described = [GONE], [GONE]
    with pytest.raises(ModelUnavailable, match="does not serve model 'm'"):
        ask(classifier)
    assert (server.requests, server.descriptions) == ([""], [""] * (RETRIES + 1))


def test_a_model_that_is_loaded_again_answers(server, classifier):
    server.served, server.described = [GONE, "1"], [GONE, GONE, "1"]
    assert ask(classifier) == "1"
    assert (server.requests, server.descriptions) == (["", ""], [""] * 3)


def test_a_model_that_is_described_and_does_not_answer_is_given_up(server, classifier):
    server.served = [GONE]
    with pytest.raises(ModelUnavailable, match="does not serve model 'm'"):
        ask(classifier)
    assert server.requests == [""] * connection._MOST_FOLLOWS


def test_a_version_that_is_gone_once_it_has_answered_is_passed_over(server, classifier):
    server.served, server.described = ["2", "1"], [GONE]
    assert ask(classifier) == "1"
    assert server.requests == ["", ""]


def test_a_server_that_describes_no_version_that_answers_is_asked_by_the_known_one(
    server, classifier
):
    server.served, server.described = ["2"] * connection._MOST_FOLLOWS + ["1"], [GONE]
    assert ask(classifier) == "1"
    assert server.requests == [""] * connection._MOST_FOLLOWS + ["1"]
