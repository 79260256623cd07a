"""The ports of a server: which are free, who has the others, and what a user is told."""

from __future__ import annotations

import os
import socket

import pytest

from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.server.errors import PortInUse
from seresnext101_triton.server.ports import Ports, bare_address, listens, occupied, owner


def test_the_ports_are_tritons():
    """https://github.com/triton-inference-server/server: 8000 is HTTP, 8001 gRPC, 8002 metrics."""
    assert Ports() == Ports(grpc=8001, http=8000, metrics=8002)


def test_a_zero_becomes_a_free_port_and_a_number_stays():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        found = vars(Ports(0, 0, 0).resolve("127.0.0.1")).values()
    assert len(set(found)) == 3 and not {0, taken} & set(found)
    assert Ports(0, taken, 0).resolve("127.0.0.1").http == taken


def test_who_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert owner(port) == os.getpid() and listens(os.getpid(), port)
        assert not listens(1, port)
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert owner(client.getsockname()[1]) is None  # It is connected, and does not listen.
    assert owner(port) is None and not listens(os.getpid(), port)


@pytest.mark.parametrize(
    ("ports", "address", "message"),
    [
        (Ports(7, 7, 8), "127.0.0.1", r"needs a port of its own, and not \[7, 7, 8\]"),
        (
            *(Ports(0, 70_000, 0), "127.0.0.1"),
            r"^cannot listen on 127.0.0.1:70000 \(no such port\). Choose another with `http_port`,"
            " or a free one with `http_port=0`$",
        ),
        (
            *(Ports(0, 0, 0), "192.0.2.1"),
            r"^cannot listen on 192.0.2.1:0 \(Cannot assign requested address\): `address` must be",
        ),
        (Ports(0, 0, 0), "no.such.host.invalid", "`address` must be an address of this machine"),
        (
            *(Ports(0, 0, 0), "2001:db8::1"),
            r"^cannot listen on \[2001:db8::1\]:0 .*`address` must be|no IPv6. Name an IPv4",
        ),
    ],
)
def test_what_cannot_be_listened_on(ports, address, message):
    with pytest.raises(PortInUse, match=message):
        ports.resolve(address)


def test_a_port_that_is_taken_names_its_process():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        text = (
            f"cannot listen on 127.0.0.1:{port} (Address already in use): process {os.getpid()} "
            "does. Choose another with `metrics_port`, or a free one with `metrics_port=0`"
        )
        with pytest.raises(PortInUse) as refused:
            Ports(0, 0, port).resolve("127.0.0.1")
        assert str(refused.value) == text == str(occupied("127.0.0.1", "metrics", port))
    assert "in use): another server may be running. Choose" in str(occupied("::1", "grpc", port))


@pytest.mark.parametrize("address", ["", " "])
def test_an_address_must_be_named(address):
    with pytest.raises(UsageError, match="`address` is empty"):
        Ports(0, 0, 0).resolve(address)


@pytest.mark.parametrize(
    ("given", "bare"),
    [("[::1]", "::1"), ("::1", "::1"), ("127.0.0.1", "127.0.0.1"), ("[host]", "[host]")],
)
def test_brackets_are_those_of_urls(given, bare):
    assert bare_address(given) == bare
