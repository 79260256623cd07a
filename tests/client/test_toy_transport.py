"""A transport is one module and one line of a table.

A transport from outside the client classifies like the client's own.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from seresnext101_triton.client import (
    AsyncClassifier,
    Classifier,
    Connection,
    RequestRejected,
    TransportOptions,
    UsageError,
)
from seresnext101_triton.client.address import parse
from seresnext101_triton.client.cli import main
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.client.protocols import TRANSPORTS


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(TRANSPORTS, "toy", "tests.client.toy_transport")


def test_the_library_speaks_it(toy):
    with Classifier("toy://anywhere", "m") as classifier:
        assert classifier.model.platform == "toy"
        assert [one.label for one in classifier.classify(np.zeros((8, 8, 3), np.uint8), top=2)] == [
            "dog",
            "cat",
        ]

    async def ask():
        async with AsyncClassifier(
            "anywhere", transport_options=TransportOptions("toy")
        ) as classifier:
            return [
                answer.predictions[0].label
                async for answer in classifier.stream(sample_photographs())
            ]

    assert asyncio.run(ask()) == ["dog"] * len(sample_photographs())


def test_addresses_and_errors_know_it(toy):
    assert str(parse("toys://host:1")) == "toys://host:1" and parse("host", "toy").port == 7000
    with pytest.raises(
        UsageError, match="is an address for Toy, but the protocol asked for is grpc"
    ):
        parse("toy://host", "grpc")
    with pytest.raises(UsageError, match=r"write HOST:PORT, grpc://HOST:PORT, .*toys://HOST:PORT"):
        parse("ftp://host")
    with (
        Connection("toy://host") as connection,
        pytest.raises(RequestRejected, match="It is overloaded"),
    ):
        connection.server()


def test_the_command_line_speaks_it(toy, capsys):
    assert (
        main(
            [
                "classify",
                str(sample_photographs()[0]),
                "--protocol",
                "toy",
                "--url",
                "host",
                "--csv",
            ]
        )
        == 0
    )
    assert ",dog,0.75" in capsys.readouterr().out
