"""Servers that are not Triton, gateways in front of Triton, and ports with another protocol.

All of them are real servers on this machine.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import grpc
import numpy as np
import pytest
import trustme
from hypothesis import example, given
from hypothesis import strategies as st

from seresnext101_triton.client import Tls, TransportOptions, probe
from seresnext101_triton.client.cli import main
from seresnext101_triton.client.connection import AsyncConnection, Connection
from seresnext101_triton.client.contract import OutputKind, Preprocessing
from seresnext101_triton.client.errors import (
    AccessDenied,
    ClientError,
    ContractError,
    DeadlineExceeded,
    ModelUnavailable,
    NotTriton,
    RequestRejected,
    ServerUnreachable,
)
from seresnext101_triton.client.served import ModelState, ServedModel

MODEL = ServedModel(
    "m",
    "1",
    "i",
    np.dtype(np.float32),
    "o",
    2,
    4,
    1,
    Preprocessing(72, 64),
    OutputKind.PROBABILITIES,
    untrained=False,
)
BATCH = np.zeros((1, 3, 4, 4), np.float32)
QUESTIONS: dict[str, Callable[[Connection], object]] = {
    "server": lambda connection: connection.server(),
    "is_ready": lambda connection: connection.is_ready(),
    "models": lambda connection: connection.models(),
    "config": lambda connection: connection.config("m"),
    "describe": lambda connection: connection.describe("m"),
    "infer": lambda connection: connection.infer(MODEL, BATCH),
    "infer_top": lambda connection: connection.infer_top(MODEL, BATCH, 2),
    "wait": lambda connection: connection.wait_until_ready(timeout_s=0),
    "wait for m": lambda connection: connection.wait_until_ready("m", timeout_s=0),
}


@contextmanager
def answering(
    answer: Callable[[socket.socket, bytes], object], context: ssl.SSLContext | None = None
) -> Iterator[tuple[str, list[bytes]]]:
    """A server that reads a whole request, answers it and closes the connection.

    Gives `host:port` and the list of the requests' first lines.
    """
    requests: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with suppress(OSError, ValueError):
            with (
                connection,
                context.wrap_socket(connection, server_side=True)
                if context
                else connection as connection,
            ):
                head = b""
                while b"\r\n\r\n" not in head:
                    head += more(connection)
                head, _, body = head.partition(b"\r\n\r\n")
                requests.append(head.partition(b"\r\n")[0])
                length = [
                    line.partition(b":")[2]
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                ]
                while length and len(body) < int(length[0]):
                    body += more(connection)
                answer(connection, requests[-1])

    serving: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    serving.append(
                        threading.Thread(target=serve, args=listener.accept()[:1], daemon=True)
                    )
                    serving[-1].start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", requests
        listener.shutdown(socket.SHUT_RDWR)
    # A thread that stays would take the processor from every test that follows.
    for thread in [accepting, *serving]:
        thread.join(60)
        assert not thread.is_alive()


def more(connection: socket.socket) -> bytes:
    """The next bytes of a request; `ConnectionError` where the client has closed."""
    if not (piece := connection.recv(65536)):
        raise ConnectionError
    return piece


def page(status: str, body: bytes = b"", kind: str = "text/html", *headers: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def always(content: bytes) -> Callable[[socket.socket, bytes], None]:
    return lambda connection, request: connection.sendall(content)


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x;name=value\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


HTML = b"<!DOCTYPE html>\n<html><title>Welcome\x1b[31m</title></html>"
STRANGERS = {
    "HTML": (page("200 OK", HTML), NotTriton, "not a Triton server: it answers"),
    "JSON of another kind": (
        page("200 OK", b"[1, 2]", "application/json"),
        NotTriton,
        "not a Triton server",
    ),
    "a number": (page("200 OK", b"7", "application/json"), NotTriton, "not a Triton server"),
    "null": (page("200 OK", b"null", "application/json"), NotTriton, "not a Triton server"),
    "JSON without an end": (
        page("200 OK", b"[" * 100_000, "application/json"),
        NotTriton,
        "not a Triton server",
    ),
    "not UTF-8": (
        page("200 OK", b"\xff\xfe{}", "application/json"),
        NotTriton,
        "not a Triton server",
    ),
    "a page that is not there": (
        page("404 Not Found", HTML),
        NotTriton,
        "it answers with HTTP 404, text/html",
    ),
    "another service": (
        page("404 Not Found", b'{"detail": "Not Found"}', "application/json"),
        NotTriton,
        "HTTP 404",
    ),
    "Spring": (
        page("404 Not Found", b'{"status": 404, "error": "Not Found"}', "application/json"),
        NotTriton,
        "HTTP 404",
    ),
    "an error that is none": (
        page("400 Bad Request", b'{"error": {"code": 7}}', "application/json"),
        NotTriton,
        "HTTP 400",
    ),
    "a server's own fault": (page("500 Internal Server Error", HTML), NotTriton, "HTTP 500"),
    "a login page": (
        page("302 Found", b"", "text/html", "Location: https://login.example/?next=\x1b[31m"),
        NotTriton,
        "redirects to https://login",
    ),
    "moved": (
        page("301 Moved Permanently", HTML, "text/html", "Location: /"),
        NotTriton,
        "redirects to /",
    ),
    "moved nowhere": (page("308 Permanent Redirect"), NotTriton, "redirects to elsewhere"),
    "401": (
        page("401 Unauthorized", HTML),
        AccessDenied,
        "401.*A token may be missing or out of date: send one in `headers`",
    ),
    "403": (
        page("403 Forbidden", b'{"error": "no"}', "application/json"),
        AccessDenied,
        "403.*A token may be missing",
    ),
    "407": (page("407 Proxy Authentication Required", HTML), AccessDenied, "407"),
    "restricted": (
        page("403 Forbidden", b'{"error": "This API is restricted"}'),
        AccessDenied,
        "This part of the server takes a key",
    ),
    "too large": (
        page("413 Request Entity Too Large", HTML),
        RequestRejected,
        "refused the request as too large.*`batch`",
    ),
    "too many": (
        page("429 Too Many Requests", HTML),
        RequestRejected,
        "It is overloaded: try again later",
    ),
    "502": (
        page("502 Bad Gateway", HTML),
        ServerUnreachable,
        "no Triton server answers at .*HTTP 502",
    ),
    "503": (
        page("503 Service Unavailable", HTML),
        ServerUnreachable,
        "no Triton server answers at .*HTTP 503",
    ),
    "504": (
        page("504 Gateway Timeout", HTML),
        ServerUnreachable,
        "no Triton server answers at .*HTTP 504",
    ),
    "502 as JSON": (
        page("502 Bad Gateway", b'{"error": "upstream"}', "application/json"),
        ServerUnreachable,
        "upstream",
    ),
    "closes at once": (b"", ServerUnreachable, "closed connection without response"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", NotTriton, "does not speak HTTP"),
    "a long line": (
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        NotTriton,
        "does not speak HTTP",
    ),
    "many headers": (
        b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 200 + b"\r\n",
        NotTriton,
        "does not speak HTTP",
    ),
    "a cut body": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        ServerUnreachable,
        "its answer was cut",
    ),
    "garbage in chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        ServerUnreachable,
        "its answer was cut",
    ),
    "no last chunk": (CHUNKED + chunks(b"[]"), ServerUnreachable, "its answer was cut"),
    "a negative chunk": (CHUNKED + b"-2\r\n[]\r\n", ServerUnreachable, "its answer was cut"),
    "cut chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
        ServerUnreachable,
        "its answer was cut",
    ),
    "not compressed": (
        page("200 OK", b"{}", "application/json", "Content-Encoding: gzip"),
        NotTriton,
        "not compressed as it says",
    ),
    "cut gzip": (
        page("200 OK", gzip.compress(b"{}" * 99)[:-9], "a/b", "Content-Encoding: gzip"),
        NotTriton,
        "compressed answer is cut",
    ),
}


@pytest.fixture
def short_probe(monkeypatch):
    """Do not wait for a second whether a stranger speaks another protocol: none of them does."""
    monkeypatch.setattr(probe, "_TIMEOUT_S", 0.1)


@pytest.mark.parametrize("name", STRANGERS)
def test_a_server_that_is_not_triton(name, short_probe):
    content, expected, message = STRANGERS[name]
    with (
        answering(always(content)) as (url, _),
        Connection(f"http://{url}", TransportOptions(retries=0)) as connection,
    ):
        assert connection.is_live() is False
        for question, ask in QUESTIONS.items():
            with pytest.raises(expected, match=message if question == "server" else None) as caught:
                print(question, ask(connection))
            assert type(caught.value) is expected, question
            assert str(caught.value).isprintable() and url in str(caught.value)
        assert caught.value.exit_code == (69 if issubclass(expected, ServerUnreachable) else 1)


@pytest.mark.parametrize("name", STRANGERS)
def test_asyncio_says_the_same_of_a_server_that_is_not_triton(name, short_probe):
    """Word for word: the two transports share everything but the stream of bytes."""
    content = STRANGERS[name][0]
    questions = {question: QUESTIONS[question] for question in ("is_ready", "server", "infer_top")}

    async def ask(url: str) -> dict[str, str]:
        said = {}
        async with AsyncConnection(f"http://{url}", TransportOptions(retries=0)) as connection:
            assert await connection.is_live() is False
            for question, ask_one in questions.items():
                with pytest.raises(ClientError) as caught:
                    await ask_one(connection)  # type: ignore[arg-type, misc]
                said[question] = f"{type(caught.value).__name__}: {caught.value}"
        return said

    with answering(always(content)) as (url, _):
        expected = {}
        with Connection(f"http://{url}", TransportOptions(retries=0)) as connection:
            for question, ask_one in questions.items():
                with pytest.raises(ClientError) as caught:
                    ask_one(connection)
                expected[question] = f"{type(caught.value).__name__}: {caught.value}"
        assert asyncio.run(ask(url)) == expected


@pytest.mark.parametrize("way", ["silent", "drips its headers", "drips its body"])
def test_a_deadline_of_asyncio_holds_for_the_whole_answer(way):
    ended = threading.Event()

    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(
            {
                "silent": b"",
                "drips its headers": b"HTTP/1.1 ",
                "drips its body": b"HTTP/1.1 200 OK\r\n\r\n",
            }[way]
        )
        while not ended.wait(0.05):
            if way != "silent":
                connection.sendall(b"2")

    async def ask(url: str) -> None:
        async with AsyncConnection(
            f"http://{url}", TransportOptions(timeout_s=0.5, retries=5)
        ) as connection:
            with pytest.raises(DeadlineExceeded, match=f"{url} did not answer within 0.5 s"):
                await connection.models()

    with answering(answer) as (url, requests):
        asyncio.run(ask(url))
        ended.set()
    assert requests.count(b"POST /v2/repository/index HTTP/1.1") == 1


INDEX = json.dumps([{"name": "m", "version": "1", "state": "READY"}]).encode()


def test_a_chunked_answer_is_read_to_its_end():
    """The connection is used again, so that nothing of the first answer may be left in it."""
    content = CHUNKED + chunks(INDEX[:7], INDEX[7:]) + b"0\r\nExpires: 0\r\nX-Cost: 1\r\n\r\n"

    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(content)
        more(connection)
        connection.sendall(content)

    async def ask(url: str) -> list[list[ModelState]]:
        async with AsyncConnection(url, TransportOptions(retries=0)) as connection:
            return [await connection.models(), await connection.models()]

    expected = [[ModelState("m", "1", "READY", "")]] * 2
    with answering(answer) as (url, requests):
        assert asyncio.run(ask(f"http://{url}")) == expected
        with Connection(f"http://{url}", TransportOptions(retries=0)) as connection:
            assert [connection.models(), connection.models()] == expected
    assert len(requests) == 2  # those after the first are not counted


def test_asyncio_keeps_its_connections_and_makes_those_anew_that_were_closed():
    kept = page("200 OK").replace(b"Connection: close\r\n", b"")

    async def ask(url: str) -> list[bool]:
        async with AsyncConnection(f"http://{url}", TransportOptions(retries=0)) as connection:
            return [await connection.is_ready() for _ in range(5)]

    with answering(always(kept)) as (url, requests):
        assert all(asyncio.run(ask(url)))
    assert len(requests) == 5


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_an_empty_answer_everywhere(body):
    """Health is all that Triton answers without a body."""
    with (
        answering(always(page("200 OK", body, "application/json"))) as (url, _),
        Connection(f"http://{url}", TransportOptions(retries=0)) as connection,
    ):
        assert connection.is_live() and connection.is_ready()
        connection.wait_until_ready("m", timeout_s=0)
        for question in ("server", "models", "describe", "infer", "infer_top"):
            with pytest.raises((NotTriton, ContractError)) as caught:
                QUESTIONS[question](connection)
            assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name", ["HTML", "401", "502", "a login page", "no HTTP", "closes at once"]
)
@pytest.mark.parametrize(
    "command", [["models"], ["describe", "m"], ["health"], ["classify", "cat.jpg", "--model", "m"]]
)
def test_one_line_on_the_command_line(name, command, capsys, tmp_path):
    content, expected, _ = STRANGERS[name]
    with answering(always(content)) as (url, _):
        assert main([*command, "--url", f"HTTP://{url}", "--retries", "0"]) == expected.exit_code
    out, err = capsys.readouterr()
    assert (
        out == ""
        and err.count("\n") == 1
        and err.startswith("error: ")
        and err.strip().isprintable()
    )


def test_a_token_is_not_sent_after_a_redirect():
    with answering(always(page("200 OK", HTML))) as (elsewhere, came):
        content = page("302 Found", b"", "text/html", f"Location: http://{elsewhere}/v2")
        with answering(always(content)) as (url, _), pytest.raises(NotTriton):
            Connection(
                f"http://{url}", TransportOptions(headers={"authorization": "x"}, retries=2)
            ).server()
    assert came == []


@pytest.mark.parametrize("way", ["silent", "drips its headers", "drips its body"])
def test_a_deadline_holds_for_the_whole_answer_and_is_not_tried_again(way):
    """However often a byte comes; and the server is asked once."""
    ended = threading.Event()

    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(
            {
                "silent": b"",
                "drips its headers": b"HTTP/1.1 ",
                "drips its body": b"HTTP/1.1 200 OK\r\n\r\n",
            }[way]
        )
        while not ended.wait(0.05):
            if way != "silent":
                connection.sendall(b"2")

    with (
        answering(answer) as (url, requests),
        Connection(f"http://{url}", TransportOptions(timeout_s=0.5, retries=5)) as connection,
    ):
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=f"{url} did not answer within 0.5 s"):
            connection.models()
        assert time.monotonic() - started >= 0.5
        ended.set()
    assert requests.count(b"POST /v2/repository/index HTTP/1.1") == 1


def test_a_deadline_of_grpc_is_not_tried_again():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with (
            Connection(address, TransportOptions(timeout_s=0.5, retries=50)) as connection,
            pytest.raises(DeadlineExceeded),
        ):
            connection.models()  # 50 retries with their pauses would exceed the test's time limit


def test_an_answer_without_an_end_takes_bounded_memory(monkeypatch):
    monkeypatch.setattr("seresnext101_triton.client.transport_http.LARGEST_ANSWER", 8 << 20)
    sent = 0

    def answer(connection: socket.socket, request: bytes) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(bytes(1 << 20))
            sent += 1

    with (
        answering(answer) as (url, _),
        Connection(f"http://{url}", TransportOptions(retries=0)) as connection,
    ):
        tracemalloc.start()
        with pytest.raises(NotTriton, match="it sends more than 8 MiB"):
            connection.models()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert 8 <= sent < 64 and peak < 32 << 20


def test_a_compressed_answer_takes_bounded_memory(monkeypatch):
    monkeypatch.setattr("seresnext101_triton.client.transport_http.LARGEST_ANSWER", 1 << 20)
    bomb = page(
        "200 OK", gzip.compress(bytes(64 << 20)), "application/json", "Content-Encoding: gzip"
    )
    with (
        answering(always(bomb)) as (url, _),
        Connection(f"http://{url}", TransportOptions(retries=0)) as connection,
    ):
        tracemalloc.start()
        with pytest.raises(NotTriton, match="longer than 1 MiB"):
            connection.models()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize(
    "missing",
    [
        page("502 Bad Gateway", HTML),
        page("503 Service Unavailable", HTML),
        page("404 Not Found", HTML),
        b"",
    ],
)
def test_what_a_gateway_says_before_the_server_is_there_is_waited_for(missing):
    asked = 0

    def answer(connection: socket.socket, request: bytes) -> None:
        nonlocal asked
        asked += 1
        connection.sendall(
            missing if asked <= 3 else page("400 Bad Request") if asked <= 5 else page("200 OK")
        )

    with (
        answering(answer) as (url, requests),
        Connection(f"http://{url}", TransportOptions(retries=0)) as connection,
    ):
        connection.wait_until_ready(timeout_s=600)
    assert requests == [b"GET /v2/health/ready HTTP/1.1"] * 6


def test_a_refused_token_is_not_waited_for():
    with (
        answering(always(page("401 Unauthorized", HTML))) as (url, requests),
        Connection(f"http://{url}") as connection,
    ):
        with pytest.raises(AccessDenied):
            connection.wait_until_ready(timeout_s=600)
        with pytest.raises(AccessDenied):
            connection.models()
    assert len(requests) == 2


def test_a_gateways_absence_is_tried_again_and_a_strangers_page_is_not():
    for content, times in (
        (page("502 Bad Gateway", HTML), 3),
        (page("200 OK", HTML), 1),
        (page("429 Too Many Requests"), 1),
    ):
        with (
            answering(always(content)) as (url, requests),
            Connection(f"http://{url}", TransportOptions(retries=2)) as connection,
        ):
            with pytest.raises(ClientError):
                connection.models()
            assert sum(b"v2/repository/index" in request for request in requests) == times


def test_a_path_before_the_servers_own():
    with (
        answering(always(page("200 OK"))) as (url, requests),
        Connection(f"http://{url}/team/triton/") as connection,
    ):
        assert connection.is_live()
    assert requests == [b"GET /team/triton/v2/health/live HTTP/1.1"]


def test_a_connection_that_was_closed_meanwhile_is_made_anew():
    """Each answer promises to keep the connection, and the server closes it all the same."""
    kept = page("200 OK").replace(b"Connection: close\r\n", b"")
    with (
        answering(always(kept)) as (url, requests),
        Connection(f"http://{url}", TransportOptions(retries=0)) as connection,
    ):
        assert all(connection.is_ready() for _ in range(5))
    assert len(requests) == 5


def test_the_next_request_begins_with_the_server_that_answered_last():
    good, bad = page("200 OK"), page("502 Bad Gateway", HTML)
    contents = {"a": bad, "b": good}
    with (
        answering(lambda c, r: c.sendall(contents["a"])) as (a, to_a),
        answering(lambda c, r: c.sendall(contents["b"])) as (b, to_b),
    ):
        with Connection(f"http://{a},http://{b}", TransportOptions(retries=0)) as connection:
            assert all(connection.is_ready() for _ in range(4))
            assert (len(to_a), len(to_b)) == (1, 4)
            contents |= {"a": good, "b": bad}
            assert all(connection.is_ready() for _ in range(4))
            assert (len(to_a), len(to_b)) == (5, 5)


def test_after_a_deadline_the_next_request_begins_with_another_server():
    ended = threading.Event()
    with (
        answering(lambda c, r: ended.wait(60)) as (silent, to_silent),
        answering(always(page("200 OK"))) as (good, to_good),
    ):
        with Connection(
            f"http://{silent},http://{good}", TransportOptions(timeout_s=0.5)
        ) as connection:
            with pytest.raises(DeadlineExceeded):
                connection.is_ready()
            assert b"GET /v2/health/ready HTTP/1.1" not in to_good
            assert all(connection.is_ready() for _ in range(3))
            assert (
                to_silent.count(b"GET /v2/health/ready HTTP/1.1") == 1
                and to_good.count(b"GET /v2/health/ready HTTP/1.1") == 3
            )
        ended.set()


def test_headers_of_one_request_do_not_reach_another():
    """An inference's length and compression are its own."""
    heads = []

    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(page("200 OK"))

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                with listener.accept()[0] as connection:
                    heads.append(connection.recv(65536).lower())
                    connection.sendall(page("200 OK", b"{}"))

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Connection(
            url, TransportOptions(compression="gzip", headers={"x-team": "vision"}, retries=0)
        ) as connection:
            with pytest.raises(ClientError):
                connection.infer(MODEL, BATCH)
            assert connection.is_ready()
        thread.join()
    assert (
        b"content-encoding: gzip" in heads[0] and b"inference-header-content-length: " in heads[0]
    )
    assert (
        b"content-encoding" not in heads[1]
        and b"inference-header" not in heads[1]
        and b"x-team: vision" in heads[1]
    )


def test_versions_and_models_that_are_no_numbers():
    listed = [
        {"name": "m", "version": version, "state": "READY"}
        for version in ("9", "10", "v1", "", "2")
    ] + [{"name": "a", "other": 1}]
    with answering(always(page("200 OK", json.dumps(listed).encode(), "application/json"))) as (
        url,
        _,
    ):
        with Connection(f"http://{url}") as connection:
            states = connection.models()
    assert [(state.name, state.version) for state in states] == [
        ("a", ""),
        *(("m", version) for version in ("", "v1", "2", "9", "10")),
    ]


@pytest.mark.parametrize(
    ("versions", "newest"),
    [(["9", "10"], "10"), (["10", "9"], "10"), (["v1", "2"], "2"), (["1"], "1"), ([], None)],
)
def test_version_10_is_newer_than_9(versions, newest):
    parameters = Preprocessing(72, 64).to_parameters() | {"output.kind": "probabilities"}
    config = {
        "name": "m",
        "input": [{"name": "i", "data_type": "TYPE_FP32", "dims": [3, 64, 64]}],
        "output": [{"name": "o", "data_type": "TYPE_FP32", "dims": [7]}],
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }

    def answer(connection: socket.socket, request: bytes) -> None:
        told = config if b"/config " in request else {"name": "m", "versions": versions}
        connection.sendall(page("200 OK", json.dumps(told).encode(), "application/json"))

    with answering(answer) as (url, _), Connection(f"http://{url}") as connection:
        if newest:
            assert connection.describe("m").version == newest
        else:
            with pytest.raises(ContractError, match="the server names no version of it"):
                connection.describe("m")
        config["output"][0]["dims"] = [-1]  # type: ignore[index]
        with pytest.raises(ContractError, match="do not say how many classes"):
            connection.describe("m")


# What is spoken at a port, and what a person is told.


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    context.set_alpn_protocols(["http/1.1"])
    return folder / "ca.pem", context, authority


@pytest.fixture(scope="module")
def foreign_grpc(pem) -> Iterator[dict[bool, str]]:
    """A server of gRPC that knows none of Triton's calls, in plain text and with TLS."""
    certificate = pem[2].issue_cert("127.0.0.1")
    pair = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
    server = grpc.server(ThreadPoolExecutor(2))
    plain = server.add_insecure_port("127.0.0.1:0")
    encrypted = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    yield {False: f"127.0.0.1:{plain}", True: f"127.0.0.1:{encrypted}"}
    server.stop(None).wait()


@pytest.mark.parametrize("scheme", ["grpc", "grpcs", "http", "https"])
@pytest.mark.parametrize("spoken", ["grpc", "grpcs", "http", "https"])
def test_a_wrong_scheme_is_told_which_is_right(pem, foreign_grpc, scheme, spoken):
    ca, context, _ = pem
    with answering(always(page("404 Not Found", HTML)), context if spoken == "https" else None) as (
        web,
        _,
    ):
        place = foreign_grpc[spoken == "grpcs"] if spoken.startswith("grpc") else web
        # Some wait for more of what they do not understand, and the hint comes with the deadline.
        link = TransportOptions(
            tls=Tls(ca) if scheme.endswith("s") else None,
            retries=0,
            timeout_s=600 if scheme == spoken else 1,
        )
        with (
            Connection(f"{scheme}://{place}", link) as connection,
            pytest.raises(ServerUnreachable) as caught,
        ):
            connection.server()
    assert str(caught.value).isprintable() and caught.value.exit_code == 69
    if scheme == spoken:
        assert "This port speaks" not in str(caught.value) and isinstance(caught.value, NotTriton)
    else:
        assert str(caught.value).endswith(f": write {spoken}://{place}")


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_a_certificate_that_is_not_trusted(pem, foreign_grpc, scheme, tmp_path):
    _, context, _ = pem
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with answering(always(page("200 OK")), context) as (web, _):
        url = f"grpcs://{foreign_grpc[True]}" if scheme == "grpcs" else f"https://{web}"
        for tls in (None, Tls(tmp_path / "other.pem")):
            with Connection(url, TransportOptions(tls=tls, retries=0, timeout_s=600)) as connection:
                with pytest.raises(
                    ServerUnreachable,
                    match="its certificate is not trusted: .*name its authority with `tls.ca`",
                ):
                    connection.server()


def http2(headers: bytes, body: bytes = b"") -> bytes:
    """The answer of an HTTP/2 server (RFC 9113).

    The frames are SETTINGS, the acknowledgement of the client's SETTINGS, and HEADERS and DATA for
    the first stream.
    """

    def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content
        )

    return (
        frame(4, 0, 0, b"") + frame(4, 1, 0, b"") + frame(1, 4, 1, headers) + frame(0, 1, 1, body)
    )


def field(name: str, value: str) -> bytes:
    """A header as HPACK writes one that is in no table (RFC 7541, section 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *((code, NotTriton) for code in ("200", "302", "404", "500")),
        *((code, AccessDenied) for code in ("401", "403")),
        *((code, ServerUnreachable) for code in ("429", "502", "503", "504")),
    ],
)
def test_a_web_server_that_speaks_http2(status, expected):
    """Over gRPC these arrive as statuses of gRPC's own choice; 429 becomes UNAVAILABLE there."""
    content = http2(field(":status", status) + field("content-type", "text/html"), HTML)

    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(content[:9])  # settings first, for which the client waits before it asks
        came = b""
        while b"GRPCInferenceService" not in came:
            came += more(connection)
        connection.sendall(content[9:])
        with suppress(OSError):
            while connection.recv(65536):
                pass

    with answering(answer) as (url, _), Connection(url, TransportOptions(retries=0)) as connection:
        with pytest.raises(expected) as caught:
            connection.server()
        assert type(caught.value) is expected
        assert str(caught.value).isprintable()


# Any bytes at all.

_STATUS = st.integers(100, 599).map(lambda code: f"HTTP/1.1 {code} X\r\n".encode()) | st.binary(
    max_size=20
)
_HEADER = st.sampled_from(
    [
        *(
            b"Content-Length: 2",
            b"Content-Length: -1",
            b"Content-Length: x",
            b"Transfer-Encoding: chunked",
            b"Content-Encoding: gzip",
        ),
        *(
            b"Content-Encoding: deflate",
            b"Content-Type: application/json",
            b"Location: x",
            b"Connection: keep-alive",
            b"X",
        ),
        *(
            b"Inference-Header-Content-Length: 3",
            b"Inference-Header-Content-Length: x",
            b"Inference-Header-Content-Length: -1",
        ),
    ]
)
_TENSOR = {"name": "o", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "name", "versions", "outputs", "o"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
_OUTPUT = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["o", "x", 1]),
        "datatype": st.sampled_from(["FP32", "BYTES", "INT64", "", None]),
        "shape": st.lists(st.integers(-1, 2**62), max_size=3) | st.just([1, 2]),
        "data": st.lists(st.floats() | st.text(max_size=4), max_size=3),
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-5, 2**40)}),
    },
)
_BODY = (
    st.binary(max_size=30)
    | _JSON.map(lambda value: json.dumps(value).encode())
    | st.lists(_OUTPUT, max_size=2).map(lambda outputs: json.dumps({"outputs": outputs}).encode())
)


@pytest.fixture(scope="module")
def replaying() -> Iterator[tuple[Connection, list[bytes]]]:
    content = [b""]
    with answering(lambda connection, request: connection.sendall(content[0])) as (url, _):
        with Connection(f"http://{url}", TransportOptions(retries=0, timeout_s=10)) as connection:
            yield connection, content


@given(_STATUS, st.lists(_HEADER, max_size=4), _BODY, st.sampled_from(sorted(QUESTIONS)))
@example(b"HTTP/1.1 200 OK\r\n", [], json.dumps({"outputs": [_TENSOR]}).encode(), "infer")
@example(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", [], b"{}", "models")
def test_any_answer_is_read_or_refused(replaying, status, headers, body, question):
    connection, content = replaying
    content[0] = status + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body
    try:
        answer = QUESTIONS[question](connection)
    except ClientError as error:
        assert str(error).isprintable() and error.exit_code in (1, 69)
        return
    if question == "infer":
        assert isinstance(answer, np.ndarray) and len(answer) == 1


def test_the_kinds_of_errors_are_apart():
    """A deadline and a stranger are absences, a refusal is not."""
    assert issubclass(NotTriton, ServerUnreachable) and issubclass(
        DeadlineExceeded, ServerUnreachable
    )
    assert not any(
        issubclass(kind, ServerUnreachable)
        for kind in (AccessDenied, RequestRejected, ModelUnavailable)
    )
