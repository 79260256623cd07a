"""The ways to a server, and what happens when one is closed: every one against the real tritonserver, or a socket that plays dead."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import trustme

from client import Classifier, Link, Tls
from client.connection import Connection
from client.errors import ClientError, DeadlineExceeded, ModelUnavailable, RequestRejected, ServerUnreachable
from client.images import sample_photographs
from client.options import link_of
from server.launcher import Server
from tests.conftest import FREE_PORTS, onnx_convolution, write_model

NO_RETRY = Link(retries=0)


def address(server: Server, protocol: str) -> str:
    return f"127.0.0.1:{server.ports.grpc if protocol == 'grpc' else server.ports.http}"


@contextmanager
def listening(answer=lambda connection: None) -> Iterator[tuple[str, list[float]]]:
    """A port that accepts connections; gives its URL and when each came."""
    came: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept = []

        def accept():
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    came.append(time.monotonic())
                    kept.append(connection)
                    answer(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", came
        listener.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        connection.close()


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return f"127.0.0.1:{unused.getsockname()[1]}"


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_both_protocols_give_the_same_answers(server, protocol, compression):
    with Classifier(server.url, "tiny_onnx") as reference:
        batch = np.stack([reference.prepare(path) for path in sample_photographs()])
        expected, top = reference.infer(batch), reference.classify(sample_photographs()[0])
        link = Link(protocol, compression=compression, headers={"x-team": "vision"})
        with Classifier(address(server, protocol), "tiny_onnx", link=link) as classifier:
            assert classifier.model == reference.model
            np.testing.assert_array_equal(classifier.infer(batch), expected)
            assert classifier.classify(sample_photographs()[0]) == top


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_what_a_server_offers(server, protocol):
    with Connection(address(server, protocol), Link(protocol)) as connection:
        assert connection.is_live() and connection.is_ready()
        assert connection.ready_models() == ["logits_torchscript", "tiny_onnx", "tiny_openvino", "tiny_torchscript"]
        version, extensions = connection.server()
        assert version.startswith("2.") and "classification" in extensions
        connection.wait_until_ready("tiny_onnx", timeout_s=0)
        with pytest.raises(ModelUnavailable, match="does not serve model 'cats'.*It serves: logits_torchscript, tiny_onnx"):
            connection.describe("cats")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_many_threads_may_share_one_classifier(server, protocol):
    with Classifier(address(server, protocol), "tiny_onnx", link=Link(protocol)) as classifier:
        alone = [classifier.classify(path) for path in sample_photographs()]
        answers = list(classifier.stream(sample_photographs() * 5, batch=1, in_flight=8))
        assert [answer.predictions for answer in answers] == alone * 5


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_refusal_is_not_sent_again(server, protocol):
    with Classifier(address(server, protocol), "tiny_onnx", link=Link(protocol, retries=5)) as classifier:
        started = time.monotonic()
        with pytest.raises(RequestRejected, match=r"batch-size must be <= 4"):
            classifier.infer(np.zeros((5, 3, 64, 64), np.float32))
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_nobody_there(protocol):
    url = closed_port()
    with Connection(url, Link(protocol, retries=1)) as connection:
        assert not connection.is_live()
        with pytest.raises(ServerUnreachable, match=f"no Triton server answers at {url}"):
            connection.models()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_that_accepts_and_never_answers(protocol):
    with listening() as (url, _), Connection(url, Link(protocol, timeout_s=0.5, retries=5)) as connection:
        started = time.monotonic()
        with pytest.raises(ServerUnreachable, match=f"{url}") as caught:
            connection.models()
        assert isinstance(caught.value, DeadlineExceeded)
        assert "did not answer within 0.5 s" in str(caught.value)
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_one_of_two_servers_is_dead(server, protocol):
    urls = f"{closed_port()}, {address(server, protocol)}"
    with Classifier(urls, "tiny_onnx", link=Link(protocol, retries=0)) as classifier:
        assert classifier.classify(sample_photographs()[0])
        started = time.monotonic()
        for _ in range(5):
            classifier.infer(np.zeros((1, 3, 64, 64), np.float32))
        assert time.monotonic() - started < 5  # the dead one is not asked first each time


def test_a_request_that_nobody_answered_is_sent_again(server):
    """The port is closed for the first tries, and then forwarded to the server."""
    with listening(lambda connection: connection.close()) as (url, came):
        with Connection(url, Link("http", retries=3)) as connection, pytest.raises(ServerUnreachable):
            connection.models()
        assert len(came) >= 4
        pauses = np.diff(came)
        assert pauses.max() < 2


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_shared_memory(server, protocol):
    """The same answers, from many threads, and nothing left in /dev/shm."""
    link = Link(protocol, shared_memory=True)
    with Classifier(server.url, "tiny_onnx") as reference:
        expected = [reference.classify(path) for path in sample_photographs()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Classifier(address(server, protocol), "tiny_onnx", link=link) as classifier:
            answers = list(classifier.stream(sample_photographs() * 5, batch=1, in_flight=8))
            assert list(Path("/dev/shm").glob("client-*"))
    assert [answer.predictions for answer in answers] == expected * 5
    assert not list(Path("/dev/shm").glob("client-*"))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_that_shares_no_memory_is_sent_the_tensors(server, protocol, monkeypatch):
    """As one on another machine would: it finds no region of that name."""
    monkeypatch.setattr("client.shared_memory.SharedTensors._key", lambda self, name: "/elsewhere")
    with Classifier(address(server, protocol), "tiny_onnx", link=Link(protocol, shared_memory=True)) as classifier:
        with pytest.warns(RuntimeWarning, match="no shared memory with this server, tensors are sent instead") as caught:
            assert len(classifier.classify_all(sample_photographs() * 4)) == 16
    assert len(caught) == 1


@contextmanager
def tls_in_front(server: Server, protocol: str, context: ssl.SSLContext) -> Iterator[str]:
    """What a gateway does: TLS outside, plain text inside."""
    context.set_alpn_protocols(["h2"] if protocol == "grpc" else ["http/1.1"])
    target = ("127.0.0.1", server.ports.grpc if protocol == "grpc" else server.ports.http)

    def copy(source, sink):
        with suppress(OSError, ssl.SSLError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve(connection):
        def run():
            with suppress(OSError, ssl.SSLError):
                outside = context.wrap_socket(connection, server_side=True)
                inside = socket.create_connection(target)
                threading.Thread(target=copy, args=(inside, outside), daemon=True).start()
                copy(outside, inside)

        threading.Thread(target=run, daemon=True).start()

    with listening(serve) as (url, _):
        yield url.replace("127.0.0.1", "localhost")


@pytest.fixture
def authority(tmp_path: Path):
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    client = ca.issue_cert("client@example.org")
    client.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    client.private_key_pem.write_to_path(tmp_path / "client.key")
    return ca


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_tls(server, authority, tmp_path, protocol, mutual):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    ours = {"certificate": tmp_path / "client.pem", "key": tmp_path / "client.key"} if mutual else {}
    if mutual:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    with tls_in_front(server, protocol, context) as url:
        tls = Tls(tmp_path / "ca.pem", **ours)
        with Classifier(url, "tiny_onnx", link=Link(protocol, tls=tls, timeout_s=20)) as classifier:
            assert len(classifier.classify(sample_photographs()[0])) == 5
        other = trustme.CA()
        other.cert_pem.write_to_path(tmp_path / "other.pem")
        refused = Link(protocol, tls=Tls(tmp_path / "other.pem"), retries=0, timeout_s=5)
        with pytest.raises(ServerUnreachable), Connection(url, refused) as connection:
            connection.models()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Link("carrier pigeon"), "protocol must be one of grpc, http"),
        (lambda: Link(compression="zip"), "compression must be one of gzip, deflate"),
        (lambda: Link(timeout_s=0), "the timeout must be above 0"),
        (lambda: Tls(certificate=Path("/x.pem")), "takes both a certificate and its key"),
        (lambda: Tls(ca=Path("/nowhere.pem")), "/nowhere.pem does not exist"),
        (lambda: Connection(" , "), "no URL: name a server as HOST:PORT"),
    ],
)
def test_options_that_cannot_be_meant(make, message):
    with pytest.raises(ClientError, match=message):
        make()


def test_options_of_the_command_line():
    from client.cli import _parser

    line = ["models", "--protocol", "http", "--timeout", "3", "--retries", "0", "--header", "Authorization: Bearer x", "--tls"]
    link = link_of(_parser().parse_args(line))
    assert link == Link("http", 3, 0, {"authorization": "Bearer x"}, Tls(), None)
    with pytest.raises(SystemExit):
        _parser().parse_args(["models", "--header", "nonsense"])


def test_a_server_that_is_not_ready_says_why(tmp_path):
    config = 'platform: "onnxruntime_onnx"'
    write_model(tmp_path, "good", config, {"model.onnx": onnx_convolution((3, 4, 4))})
    with Server(tmp_path, ports=FREE_PORTS) as server, Connection(server.url, NO_RETRY) as connection:
        connection.wait_until_ready()
        with pytest.raises(ModelUnavailable, match="it has no model 'cats'"):
            connection.wait_until_ready("cats", timeout_s=0)
    with pytest.raises(ServerUnreachable), Connection(server.url, NO_RETRY) as connection:
        connection.wait_until_ready(timeout_s=0.3)
