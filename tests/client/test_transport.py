"""The transports, and what happens when one is closed.

Each runs against the real tritonserver, or against a socket that never answers.
"""

from __future__ import annotations

import http.client
import http.server
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trustme

from seresnext101_triton.client import Classifier, Tls, TransportOptions
from seresnext101_triton.client.bulk import BulkEvents, BulkOptions, classify_into
from seresnext101_triton.client.cli import main
from seresnext101_triton.client.connection import Connection
from seresnext101_triton.client.contract import OutputKind
from seresnext101_triton.client.errors import (
    AccessDenied,
    ClientError,
    DeadlineExceeded,
    ModelUnavailable,
    RequestRejected,
    ServerUnreachable,
    UsageError,
)
from seresnext101_triton.client.images import ImageSource, sample_photographs
from seresnext101_triton.client.launches import FOLDER_VARIABLE, KEY_NAME
from seresnext101_triton.client.options import transport_options_of
from seresnext101_triton.client.protocols import protocol_named
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.server.launcher import Server
from tests.conftest import FREE_PORTS, QUIET, TINY, onnx_convolution, tiny_request, write_model
from tests.waiting import until

NO_RETRY = TransportOptions(retries=0)


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
        link = TransportOptions(protocol, compression=compression, headers={"x-team": "vision"})
        with Classifier(
            address(server, protocol), "tiny_onnx", transport_options=link
        ) as classifier:
            assert classifier.model == reference.model
            np.testing.assert_array_equal(classifier.infer(batch), expected)
            assert classifier.classify(sample_photographs()[0]) == top


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_what_a_server_offers(server, protocol):
    with Connection(address(server, protocol), TransportOptions(protocol)) as connection:
        assert connection.is_live() and connection.is_ready()
        assert connection.ready_models() == [
            "logits_torchscript",
            "tiny_onnx",
            "tiny_openvino",
            "tiny_torchscript",
        ]
        version, extensions = connection.server()
        assert version.startswith("2.") and "classification" in extensions
        connection.wait_until_ready("tiny_onnx", timeout_s=0)
        with pytest.raises(
            ModelUnavailable,
            match="does not serve model 'cats'.*It serves: logits_torchscript, tiny_onnx",
        ):
            connection.describe("cats")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_what_a_server_counts(server, protocol):
    """Three answers of one model. A request that does not fit the model is not counted."""
    with Classifier(
        address(server, protocol), "tiny_torchscript", transport_options=TransportOptions(protocol)
    ) as classifier:
        batch = np.stack([classifier.prepare(path) for path in sample_photographs()[:2]])
        with Connection(address(server, protocol), TransportOptions(protocol)) as connection:
            (before,) = connection.counters("tiny_torchscript", "1")
            for _ in range(3):
                classifier.infer(batch)
            with pytest.raises(RequestRejected):
                classifier.infer(batch[:, :, :60])
            assert until(
                lambda: connection.counters("tiny_torchscript")[0].answered == before.answered + 3
            )
            (after,) = connection.counters("tiny_torchscript")
            everything = connection.counters()
            with pytest.raises(RequestRejected, match="model 'cats' is not available"):
                connection.counters("cats")
    assert (after.model, after.version) == ("tiny_torchscript", "1")
    assert after.failed == before.failed
    assert after.images - before.images == 6
    assert after.executions > before.executions and after.cached == before.cached
    assert after.queue_s > before.queue_s and after.compute_s > before.compute_s
    assert after in everything and {each.model for each in everything} >= {"tiny_onnx"}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_many_threads_may_share_one_classifier(server, protocol):
    with Classifier(
        address(server, protocol), "tiny_onnx", transport_options=TransportOptions(protocol)
    ) as classifier:
        alone = [classifier.classify(path) for path in sample_photographs()]
        answers = list(classifier.stream(sample_photographs() * 5, batch=1, in_flight=8))
        assert [answer.predictions for answer in answers] == alone * 5


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_refusal_is_not_sent_again(server, protocol):
    with Classifier(
        address(server, protocol),
        "tiny_onnx",
        transport_options=TransportOptions(protocol, retries=5),
    ) as classifier:
        started = time.monotonic()
        with pytest.raises(RequestRejected, match=r"batch-size must be <= 4"):
            classifier.infer(np.zeros((5, 3, 64, 64), np.float32))
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_nobody_there(protocol):
    url = closed_port()
    with Connection(url, TransportOptions(protocol, retries=1)) as connection:
        assert not connection.is_live()
        with pytest.raises(ServerUnreachable, match=f"no Triton server answers at {url}"):
            connection.models()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_that_accepts_and_never_answers(protocol):
    with (
        listening() as (url, _),
        Connection(url, TransportOptions(protocol, timeout_s=0.5, retries=5)) as connection,
    ):
        with pytest.raises(DeadlineExceeded, match=f"{url} did not answer within 0.5 s"):
            connection.models()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_one_of_two_servers_is_dead(server, protocol):
    urls = f"{closed_port()}, {address(server, protocol)}"
    with Classifier(
        urls, "tiny_onnx", transport_options=TransportOptions(protocol, retries=0)
    ) as classifier:
        assert classifier.classify(sample_photographs()[0])
        started = time.monotonic()
        for _ in range(5):
            classifier.infer(np.zeros((1, 3, 64, 64), np.float32))
        assert time.monotonic() - started < 5  # the dead one is not asked first each time


def test_a_request_that_nobody_answered_is_sent_again(server):
    """The port is closed for the first tries, and then forwarded to the server."""
    with listening(lambda connection: connection.close()) as (url, came):
        with (
            Connection(url, TransportOptions("http", retries=3)) as connection,
            pytest.raises(ServerUnreachable),
        ):
            connection.models()
        assert len(came) >= 4
        pauses = np.diff(came)
        assert pauses.max() < 2


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_shared_memory(server, protocol):
    """The same answers, from many threads, and nothing left in /dev/shm."""
    link = TransportOptions(protocol, shared_memory=True)
    mine = f"client-{os.getpid()}-*"
    with Classifier(server.url, "tiny_onnx") as reference:
        expected = [reference.classify(path) for path in sample_photographs()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Classifier(
            address(server, protocol), "tiny_onnx", transport_options=link
        ) as classifier:
            answers = list(classifier.stream(sample_photographs() * 5, batch=1, in_flight=8))
            assert list(Path("/dev/shm").glob(mine))
    assert [answer.predictions for answer in answers] == expected * 5
    assert not list(Path("/dev/shm").glob(mine))


def test_a_full_shared_memory_is_no_crash(server, tmp_path):
    """A write to a page that /dev/shm cannot provide kills a process with SIGBUS.

    The script mounts a small /dev/shm in a mount namespace of its own.
    """
    script = """
import subprocess, sys, numpy as np
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/dev/shm"], check=True)
from seresnext101_triton.client import Classifier, TransportOptions
with Classifier(sys.argv[1], "tiny_onnx", transport_options=TransportOptions(shared_memory=True)) \
as classifier:
    print(classifier.infer(np.zeros((4, 3, 64, 64), np.float32)).shape)
"""
    command = ["unshare", "--mount", "--map-root-user", sys.executable, "-c", script, server.url]
    ended = subprocess.run(command, capture_output=True, text=True)
    if "unshare" in ended.stderr or "mount:" in ended.stderr:
        pytest.skip("this machine gives tests no namespace of their own")
    assert (ended.returncode, ended.stdout.strip()) == (0, "(4, 1000)"), ended.stderr
    assert "196608 bytes of shared memory cannot be had: No space left on device" in ended.stderr


def test_a_killed_client_leaves_no_shared_memory(server):
    script = """
import os, sys, numpy as np
from seresnext101_triton.client import Classifier, TransportOptions
with Classifier(sys.argv[1], "tiny_onnx", transport_options=TransportOptions(shared_memory=True)) \
as classifier:
    classifier.infer(np.zeros((1, 3, 64, 64), np.float32))
    print("ready", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout and client.stdout.readline() == b"ready\n"
        mine = f"client-{client.pid}-*"
        assert list(Path("/dev/shm").glob(mine))
        client.kill()
    for _ in range(600):
        if not list(Path("/dev/shm").glob(mine)):
            return
        time.sleep(0.1)
    raise AssertionError("its region is still there")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_that_shares_no_memory_is_sent_the_tensors(server, protocol, monkeypatch):
    """As one on another machine would: it finds no region of that name."""
    monkeypatch.setattr(
        "seresnext101_triton.client.shared_memory.SharedTensors._key",
        lambda self, name: "/elsewhere",
    )
    with Classifier(
        address(server, protocol),
        "tiny_onnx",
        transport_options=TransportOptions(protocol, shared_memory=True),
    ) as classifier:
        with pytest.warns(
            RuntimeWarning, match="no shared memory with this server, tensors are sent instead"
        ) as caught:
            assert len(classifier.classify_all(sample_photographs() * 4)) == 16
    assert len(caught) == 1


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("model", ["tiny_openvino", "logits_openvino"])
def test_a_batch_of_a_model_without_a_batcher_is_ranked_image_by_image(
    logits_openvino, server, protocol, model
):
    """Triton ranks the batch as one row and labels the classes of the first image only.

    The client's answers equal those of batch 1, labels included.
    """
    running = logits_openvino if model == "logits_openvino" else server
    with Classifier(
        address(running, protocol), model, transport_options=TransportOptions(protocol)
    ) as classifier:
        assert classifier.model.max_batch == 0
        images: list[ImageSource] = [*sample_photographs(), np.zeros((64, 64, 3), np.uint8)]
        alone = [classifier.classify(image) for image in images]
        assert len({tuple(p.label for p in answer) for answer in alone}) > 1
        prepared = np.stack([classifier.prepare(image) for image in images])
        raw = classifier.infer(prepared)
        for count in (2, 3, len(images)):
            answers = classifier.classify_batch(prepared[:count])
            assert len(answers) == count
            for answer, expected, scores in zip(answers, alone, raw, strict=False):
                assert [(one.index, one.label) for one in answer] == [
                    (one.index, one.label) for one in expected
                ]
                np.testing.assert_allclose(
                    [one.probability for one in answer],
                    [one.probability for one in expected],
                    atol=2e-6,
                )
                assert [one.index for one in answer] == np.argsort(-scores, kind="stable")[
                    :5
                ].tolist()
        assert [answer.predictions for answer in classifier.stream(images)] == alone


@pytest.fixture(scope="module")
def logits_openvino(tmp_path_factory) -> Iterator[Server]:
    """A server with two models that have no batcher.

    `logits_openvino` answers logits of ten classes, and its labels contain colons. `old_openvino`
    has the versions 9 and 10.
    """
    folder = tmp_path_factory.mktemp("logits")
    (folder / "ten.txt").write_text("".join(f"number: {n}\n" for n in range(10)))
    ten = {
        "architecture": replace(TINY, classes=10),
        "labels": str(folder / "ten.txt"),
        "output": OutputKind.LOGITS,
    }
    outcomes = export(
        tiny_request(folder / "models", name="logits", formats=("openvino",), **ten), QUIET
    )
    model = outcomes[0].folder.parent
    shutil.copytree(model, folder / "models" / "old_openvino")
    old = folder / "models" / "old_openvino"
    config = (model / "config.pbtxt").read_text().replace("logits_openvino", "old_openvino")
    (old / "config.pbtxt").write_text(re.sub(r"latest {\s*num_versions: 1\s*}", "all {}", config))
    (old / "1").rename(old / "9")
    shutil.copytree(old / "9", old / "10")
    with Server(folder / "models", ports=FREE_PORTS) as running:
        yield running


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_newest_version_is_described_and_listed_last(logits_openvino, protocol):
    with Connection(address(logits_openvino, protocol), TransportOptions(protocol)) as connection:
        assert connection.describe("old_openvino").version == "10"
        assert connection.describe("old_openvino", "9").version == "9"
        assert [state.version for state in connection.models() if state.name == "old_openvino"] == [
            "9",
            "10",
        ]
        assert connection.ready_models() == ["logits_openvino", "old_openvino"]


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((0, 3, 64, 64), np.float32),
        np.zeros((1, 3, 64, 64)),
        np.zeros((3, 64, 64), np.float32),
    ],
)
def test_a_batch_of_nothing_or_of_another_type_is_not_sent(server, wrong):
    with (
        Classifier(server.url, "tiny_openvino") as classifier,
        pytest.raises(UsageError, match="takes float32.*with N at least 1, not"),
    ):
        classifier.infer(wrong)


def test_a_url_in_the_environment_chooses_http(server, monkeypatch):
    monkeypatch.setenv("TRITON_URL", f"HTTP://{address(server, 'http')}/")
    with Classifier(model="tiny_onnx") as classifier:
        assert len(classifier.classify(sample_photographs()[0])) == 5
    with (
        Connection(f"http://{address(server, 'http')}") as connection,
        pytest.raises(ModelUnavailable, match="it has no model 'cats'"),
    ):
        connection.wait_until_ready("cats", timeout_s=0)


@pytest.fixture(scope="module")
def restricted(repository) -> Iterator[Server]:
    """It loads, unloads, lists, shares memory and logs only for those with the key."""
    with Server(repository, ports=FREE_PORTS, only=["tiny_onnx", "tiny_openvino"]) as running:
        yield running


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_client_without_the_key_does_without_the_list(
    restricted, protocol, capsys, tmp_path, monkeypatch
):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))  # where this user's clients find the key
    url = address(restricted, protocol)
    with Connection(url, TransportOptions(protocol)) as connection:
        with pytest.raises(
            AccessDenied, match="restricted.*This part of the server takes a key"
        ) as caught:
            connection.models()
        assert not isinstance(caught.value, ServerUnreachable)
        connection.wait_until_ready(timeout_s=0)
        connection.wait_until_ready("tiny_onnx", timeout_s=0)
        with pytest.raises(
            ModelUnavailable,
            match="not ready to answer as model 'cats', and tells only those with its key why",
        ):
            connection.wait_until_ready("cats", timeout_s=0)
        with pytest.raises(ModelUnavailable, match="does not serve model 'cats'.*Ask its operator"):
            connection.describe("cats")
    with Classifier(url, "tiny_onnx", transport_options=TransportOptions(protocol)) as classifier:
        assert len(classifier.classify(sample_photographs()[0])) == 5
    with pytest.raises(AccessDenied, match="one must be named in `model`"):
        Classifier(url, transport_options=TransportOptions(protocol))
    with pytest.warns(RuntimeWarning, match="no shared memory with this server"):
        with Classifier(
            url, "tiny_onnx", transport_options=TransportOptions(protocol, shared_memory=True)
        ) as classifier:
            assert len(classifier.classify(sample_photographs()[0])) == 5
    assert main(["health", "--url", url, "--protocol", protocol]) == 0
    assert "the server is; which models, it tells those with a key" in capsys.readouterr().out
    key = {"grpc": f"triton-grpc-protocol-{KEY_NAME}", "http": KEY_NAME}[protocol]
    headers = {key: restricted.launch.key}
    with Connection(url, TransportOptions(protocol, headers=headers)) as connection:
        assert connection.ready_models() == ["tiny_onnx", "tiny_openvino"]


def test_bulk_waits_where_a_gateway_finds_no_server(server, tmp_path):
    """The gateway answers some requests with 502, readiness among them, and then forwards again."""
    inferences = refused = 0

    class Gateway(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal inferences, refused
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            inferences += self.path.endswith("/infer")
            if inferences > 2 and refused < 5:
                refused += 1
                self._reply(502, {"Content-Type": "text/html"}, b"<html>Bad Gateway</html>")
                return
            ahead = http.client.HTTPConnection(address(server, "http"))
            ahead.request(self.command, self.path, body or None, dict(self.headers))
            answer = ahead.getresponse()
            kept = ("Content-Type", "Inference-Header-Content-Length")
            self._reply(
                answer.status,
                {name: answer.headers[name] for name in kept if name in answer.headers},
                answer.read(),
            )
            ahead.close()

        do_GET = do_POST  # noqa: N815

        def _reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as gateway:
        threading.Thread(target=gateway.serve_forever, daemon=True).start()
        notes: list[str] = []
        with Classifier(
            f"http://127.0.0.1:{gateway.server_port}",
            "tiny_onnx",
            transport_options=TransportOptions(retries=0),
        ) as classifier:
            images = [str(path) for path in sample_photographs()]
            output = tmp_path / "answers.jsonl"
            options = BulkOptions(patience_s=300, top=1, batch=1, in_flight=1)
            tally = classify_into(
                output, lambda: images, classifier, options, BulkEvents(note=notes.append)
            )
        gateway.shutdown()
    assert tally.answered == len(images) == len(output.read_text().splitlines()) and refused == 5
    assert any("HTTP 502" in note for note in notes)


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
    ours = (
        {"certificate": tmp_path / "client.pem", "key": tmp_path / "client.key"} if mutual else {}
    )
    if mutual:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    with tls_in_front(server, protocol, context) as url:
        tls = Tls(tmp_path / "ca.pem", **ours)
        with Classifier(
            url, "tiny_onnx", transport_options=TransportOptions(protocol, tls=tls, timeout_s=20)
        ) as classifier:
            assert len(classifier.classify(sample_photographs()[0])) == 5
        other = trustme.CA()
        other.cert_pem.write_to_path(tmp_path / "other.pem")
        refused = TransportOptions(
            protocol, tls=Tls(tmp_path / "other.pem"), retries=0, timeout_s=5
        )
        with pytest.raises(ServerUnreachable), Connection(url, refused) as connection:
            connection.models()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TransportOptions("carrier pigeon"), "protocol must be one of grpc, http"),
        (lambda: TransportOptions(compression="zip"), "compression must be one of gzip, deflate"),
        (lambda: TransportOptions(timeout_s=0), "the timeout must be above 0"),
        (lambda: Tls(certificate=Path("/x.pem")), "takes both a certificate and its key"),
        (lambda: Tls(ca=Path("/nowhere.pem")), "/nowhere.pem does not exist"),
        (lambda: Connection(" , "), "no URL: name a server as HOST:PORT"),
    ],
)
def test_options_that_cannot_be_meant(make, message):
    with pytest.raises(ClientError, match=message):
        make()


def test_options_of_the_command_line():
    from seresnext101_triton.client.cli import _parser

    line = [
        "models",
        "--protocol",
        "http",
        "--timeout",
        "3",
        "--retries",
        "0",
        "--header",
        "Authorization: Bearer x",
        "--tls",
    ]
    link = transport_options_of(_parser().parse_args(line))
    assert link == TransportOptions("http", 3, 0, {"authorization": "Bearer x"}, Tls(), None)
    with pytest.raises(SystemExit):
        _parser().parse_args(["models", "--header", "nonsense"])


def test_a_server_that_is_not_ready_says_why(tmp_path):
    config = 'platform: "onnxruntime_onnx"'
    write_model(tmp_path, "good", config, {"model.onnx": onnx_convolution((3, 4, 4))})
    with (
        Server(tmp_path, ports=FREE_PORTS) as server,
        Connection(server.url, NO_RETRY) as connection,
    ):
        connection.wait_until_ready()
        with pytest.raises(ModelUnavailable, match="it has no model 'cats'"):
            connection.wait_until_ready("cats", timeout_s=0)
    with pytest.raises(ServerUnreachable), Connection(server.url, NO_RETRY) as connection:
        connection.wait_until_ready(timeout_s=0.3)


def test_the_greeting_is_that_of_http_2():
    """RFC 9113, section 3.4: the preface in hexadecimal, and section 6.5: a SETTINGS frame."""
    preface = bytes.fromhex("505249202a20485454502f322e300d0a0d0a534d0d0a0d0a")
    empty_settings = bytes.fromhex("000000 04 00 00000000")
    spoken = protocol_named("grpc")
    assert spoken.greeting == preface + empty_settings
    assert spoken.answers_greeting(bytes.fromhex("000006 04 00 00000000 0005 00004000"))
    assert not spoken.answers_greeting(b"HTTP/1.1 400 Bad Request\r\n")
    assert not spoken.answers_greeting(b"")
