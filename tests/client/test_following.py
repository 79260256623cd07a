"""A client that goes on with another version: what it asks, and how often, of a toy server."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from seresnext101_triton.client import Classifier, ModelUnavailable, TransportOptions, connection
from seresnext101_triton.client.protocols import TRANSPORTS
from tests.client.toy_transport import Toy

GONE = InferenceServerException("unknown model 'm'")
RETRIES = 4


class Server:
    """What each request is answered with, and how often there was one.

    Attributes:
        served: The versions that answer, each for one request; the last one for all others.
        described: The same of the versions that are described; an empty one means no version.
    """

    def __init__(self) -> None:
        self.served, self.described = ["1"], ["1"]
        self.requests: list[str] = []
        self.descriptions = 0


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setitem(TRANSPORTS, "toy", "tests.client.toy_transport")
    monkeypatch.setattr(connection, "_POLL_S", 0.0)
    monkeypatch.setattr("seresnext101_triton.client.failover._pause_s", lambda attempt: 0.0)
    answer = Toy.infer

    def latest(values: list[str]) -> str:
        return values.pop(0) if len(values) > 1 else values[0]

    async def versions(toy, model, version):
        server.descriptions += 1
        if found := latest(server.described):
            return [found]
        raise GONE

    async def infer(toy, inference):
        server.requests.append(inference.version)
        if latest(server.served) == inference.version:
            return await answer(toy, inference)
        raise GONE

    monkeypatch.setattr(Toy, "versions", versions)
    monkeypatch.setattr(Toy, "infer", infer)
    return server


@pytest.fixture
def classifier(server):
    """It has been answered by version 1."""
    with Classifier("toy://a", "m", transport_options=TransportOptions(retries=RETRIES)) as made:
        made.classify(np.zeros((8, 8, 3), np.uint8))
        server.requests.clear()
        server.descriptions = 0
        yield made


def ask(classifier: Classifier) -> str:
    classifier.classify(np.zeros((8, 8, 3), np.uint8))
    return classifier.model.version


def test_the_new_version_is_asked_at_once(server, classifier):
    server.served, server.described = ["2"], ["2"]
    assert ask(classifier) == "2"
    assert (server.requests, server.descriptions) == (["1", "2"], 1)


def test_a_model_that_is_gone_is_waited_for_only_once(server, classifier):
    """It is described as often as `retries` says; its images are not sent again each time."""
    server.served, server.described = [""], [""]
    with pytest.raises(ModelUnavailable, match="does not serve model 'm'"):
        ask(classifier)
    assert (server.requests, server.descriptions) == (["1"], RETRIES + 1)


def test_a_model_that_is_loaded_again_answers(server, classifier):
    server.served, server.described = ["", "1"], ["", "", "1"]
    assert ask(classifier) == "1"
    assert (server.requests, server.descriptions) == (["1", "1"], 3)


def test_a_version_that_is_described_and_does_not_answer_is_given_up(server, classifier):
    server.served = [""]
    with pytest.raises(ModelUnavailable, match="does not serve model 'm' version 1"):
        ask(classifier)
    assert server.requests == ["1"] * connection._MOST_IN_A_ROW


def test_servers_of_a_fleet_that_change_one_after_the_other(server, classifier):
    server.served, server.described = ["2", "1", "2"], ["2", "1", "1", "2"]
    assert ask(classifier) == "2"
    assert server.requests == ["1", "2", "1", "1", "2"]


def test_versions_that_change_for_ever_are_given_up(server, classifier):
    server.served, server.described = [""], ["2", "1"] * 100
    with pytest.raises(ModelUnavailable):
        ask(classifier)
    assert len(server.requests) == connection._MOST_FOLLOWS
