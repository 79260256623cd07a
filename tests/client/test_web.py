"""Downloads from real local servers that behave badly."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest

from seresnext101_triton.client import web
from seresnext101_triton.client.errors import ImageError
from seresnext101_triton.client.images import ImageOptions, load_image, sample_photographs

PICTURE = sample_photographs()[0].read_bytes()
OK = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def serving(answer: Callable[[socket.socket, bytes], None]) -> Iterator[str]:
    """A server that calls `answer` with each connection's socket and request; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=converse, args=(connection,), daemon=True).start()

        def converse(connection: socket.socket) -> None:
            with connection:
                with suppress(OSError):  # the client has had enough
                    answer(connection, connection.recv(65536))

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/cat.jpg"
        listener.shutdown(socket.SHUT_RDWR)


def send(answer: bytes, connection: socket.socket, _: bytes) -> None:
    connection.sendall(answer)


def whole(body: bytes, *headers: str) -> bytes:
    lines = [f"Content-Length: {len(body)}", *headers]
    return OK + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


def test_a_picture_from_the_web():
    with serving(lambda connection, _: connection.sendall(whole(PICTURE))) as url:
        expected = load_image(PICTURE).tobytes()
        assert load_image(url).tobytes() == expected
        assert load_image(url.replace("http", "HTTP", 1)).tobytes() == expected


def test_a_path_with_spaces_and_letters():
    asked = []

    def answer(connection: socket.socket, request: bytes) -> None:
        asked.append(request.split(b" ")[1])
        connection.sendall(whole(PICTURE))

    with serving(answer) as url:
        load_image(url.replace("cat", "a café%20b"))
    assert asked == [b"/a%20caf%C3%A9%20b.jpg"]


@pytest.mark.parametrize(
    "before", [b"", OK, OK + b"Content-Length: 100000\r\n\r\n"], ids=["status", "headers", "body"]
)
def test_a_server_that_drips_is_left_when_the_time_is_used_up(before):
    """Every byte comes well within the time, and all of them would take a hundred times as long."""
    dripped, left = [], threading.Event()

    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(before)
        try:
            for number in range(2000):
                connection.sendall(b"H")
                dripped.append(number)
                if left.wait(0.05):
                    return
        finally:
            left.set()

    with serving(answer) as url:
        with pytest.raises(
            ImageError, match=r"cat\.jpg cannot be fetched: it took longer than 1 s"
        ):
            load_image(url, ImageOptions(download_s=1))
    assert 1 < len(dripped) < 1000


@pytest.mark.parametrize("silent", [b"", OK, whole(b"")[:-2]])
def test_a_server_that_says_nothing_more(silent):
    left = threading.Event()

    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(silent)
        left.wait()

    with serving(answer) as url:
        with pytest.raises(ImageError, match="took longer than 0.5 s"):
            load_image(url, ImageOptions(download_s=0.5))
        left.set()


def test_a_body_without_an_end_is_read_no_further_than_allowed():
    sent = []

    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(
            b"HTTP/1.1 302 Found\r\nLocation: /other\r\n\r\n"
            if b"/cat" in request
            else OK + b"\r\n"
        )
        while True:
            connection.sendall(bytes(65536))
            sent.append(65536)

    with serving(answer) as url:
        with pytest.raises(ImageError, match="more than 1000000 bytes"):
            load_image(url.replace("cat", "dog"), ImageOptions(max_bytes=1_000_000))
        with pytest.raises(ImageError, match="the answer has no end"):
            load_image(url, ImageOptions(max_bytes=1_000_000))
    assert sum(sent) < 40_000_000  # what the kernel's buffers take included


def test_what_was_compressed_unasked():
    with serving(
        lambda connection, _: connection.sendall(
            whole(gzip.compress(PICTURE), "Content-Encoding: GZIP")
        )
    ) as url:
        assert load_image(url).tobytes() == load_image(PICTURE).tobytes()
    bomb = gzip.compress(bytes(50 << 20))
    for body, encoding, message in [
        (bomb, "gzip", "more than 1000000 bytes"),
        (bomb[:-100], "gzip", "more than 1000000 bytes"),
        (gzip.compress(PICTURE)[:-20], "gzip", "its compressed body has no end"),
        (PICTURE, "gzip", "incorrect header check"),
        (PICTURE, "br", "its Content-Encoding 'br' is not one of"),
    ]:
        answer = whole(body, f"Content-Encoding: {encoding}")
        with serving(partial(send, answer)) as url:
            with pytest.raises(ImageError, match=message):
                load_image(url, ImageOptions(max_bytes=1_000_000))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404 Not Found"),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "cannot be fetched: 302"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/x\r\n\r\n", "cannot be fetched"),
        (b"HTTP/1.1 302 Found\r\nLocation: /cat.jpg\r\nContent-Length: 0\r\n\r\n", "infinite loop"),
        (b"HTTP/1.1 999999 What\r\n\r\n", "cannot be fetched"),
        (b"", "closed connection without response"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "cannot be fetched"),
        (OK + b"X: " + b"x" * 100_000 + b"\r\n\r\n", "header line"),
        (whole(PICTURE)[:-1000], "was cut off: 1000 bytes of"),
        (
            OK + b"Transfer-Encoding: chunked\r\n\r\nffff\r\nabc",
            "cannot be fetched: IncompleteRead",
        ),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nnothing\r\nabc", "cannot be fetched"),
        (whole(b"<html>log in</html>"), "is not an image"),
        (whole(b""), "is empty"),
    ],
)
def test_answers_that_are_no_picture_end_in_one_line(answer, message):
    with serving(lambda connection, _: connection.sendall(answer)) as url:
        with pytest.raises(ImageError, match=message) as error:
            load_image(url)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://[",
        "http://127.0.0.1:99999999/x",
        "http://127.0.0.1:x/",
        "http://a b/",
        "https://\ud800/",
        "http://..",
    ],
)
def test_addresses_that_are_none(url):
    with pytest.raises(ImageError, match="cannot be fetched"):
        load_image(url, ImageOptions(download_s=5))


def test_the_time_for_a_connection_is_limited_too(monkeypatch):
    """A listener that accepts nothing, with its queue full, does not answer at all."""
    real, given = socket.create_connection, []

    def noted(address, timeout, *rest):
        given.append(timeout)
        return real(address, timeout, *rest)

    monkeypatch.setattr(socket, "create_connection", noted)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        with pytest.raises(ImageError, match="took longer than 0.5 s"):
            web.fetch(f"http://127.0.0.1:{address[1]}/", 1000, 0.5)
        for one in waiting:
            one.close()
    assert len(given) == 1 and 0 < given[0] <= 0.5
