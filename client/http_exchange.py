"""One request and one answer of HTTP/1.1, over a stream that blocks or one of asyncio.

Python's own `http.client` writes the request and reads the answer's head. The body is read here,
because `http.client` has no deadline for a whole answer and no limit of its size.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from seresnext101_triton.client.address import Address

Result = TypeVar("Result")

# gRPC's own: https://github.com/grpc/grpc/blob/master/doc/connection-backoff.md
_CONNECT_S = 20.0
_PIECE = 1 << 20  # bytes
_LONGEST_LINE = 1 << 17  # bytes; `http.client` refuses lines of more than half of it
_MOST_LINES = 128  # of a head; `http.client` refuses more than 100 headers
_INTERIM = re.compile(rb"HTTP/1\.[01] 100\b")


class TooLarge(Exception):
    """An answer has more bytes than it may have."""


@dataclass(frozen=True)
class Request:
    """What is sent, and what its answer may take.

    Attributes:
        method: `GET` or `POST`.
        path: Path of the URL, with the address's prefix.
        headers: All headers, but those of the message itself.
        body: The body; empty if there is none.
        deadline: When the answer must be complete, in seconds of `time.monotonic`.
        largest_answer: Most bytes of the answer's body.
        heard: Is called as soon as the answer's head has been read.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    deadline: float
    largest_answer: int
    heard: Callable[[], None]


class Stream(Protocol):
    """A connection to a server. Its coroutines suspend, or block, until the deadline at most.

    Attributes:
        deadline: When reading and writing must be complete, in seconds of `time.monotonic`.
    """

    deadline: float

    async def connect(
        self, host: str, port: int, context: ssl.SSLContext | None, timeout_s: float
    ) -> None:
        """Connect, with TLS if there is a context."""

    async def write(self, content: bytes) -> None:
        """Send all of it."""

    async def readline(self) -> bytes:
        """The next line, with its end; what there is of it if the connection ends before."""

    async def read(self, most: int) -> bytes:
        """Some of the next bytes; empty if the connection has ended."""

    def close(self) -> None:
        """End the connection."""


async def open_stream(
    stream: Stream, address: Address, context: ssl.SSLContext | None, deadline: float
) -> None:
    """Connect a stream.

    Raises:
        ConnectionError: There is no connection in time, and time is left to ask another server.
        TimeoutError: The deadline has passed.
        OSError: Nothing answers.
    """
    stream.deadline = deadline
    try:
        await stream.connect(address.host, address.port, context, min(_left(deadline), _CONNECT_S))
    except TimeoutError:
        _left(deadline)
        raise ConnectionError("no connection in time") from None


async def exchange(
    stream: Stream, address: Address, request: Request
) -> tuple[http.client.HTTPResponse, bytes]:
    """Send a request and read its answer.

    Returns:
        The answer's head and body. Its `will_close` says whether the connection ends with it.

    Raises:
        http.client.HTTPException: The answer is not HTTP.
        ConnectionError: The answer was cut.
        TooLarge: The answer is too large.
        TimeoutError: The deadline has passed.
        OSError: The connection has failed.
    """
    stream.deadline = request.deadline
    for piece in _written(address, request):
        await stream.write(piece)
    head = http.client.HTTPResponse(_Bytes(await _head(stream)))  # type: ignore[arg-type]
    head.begin()
    request.heard()
    body = bytearray()
    if head.chunked:
        await _read_chunks(stream, body, request.largest_answer)
    else:
        await _read_body(stream, body, head.length, request.largest_answer)
    return head, bytes(body)


def _written(address: Address, request: Request) -> list[bytes]:
    """The pieces that `http.client` sends for a request."""
    connection = http.client.HTTPConnection(address.host, address.port)
    connection.default_port = 443 if address.tls else 80
    sent: list[bytes] = []
    connection.sock = _Sink(sent)
    connection.request(request.method, request.path, request.body or None, request.headers)
    return sent


class _Sink:
    """A socket that keeps what is sent."""

    def __init__(self, sent: list[bytes]) -> None:
        self.sendall = sent.append


class _Bytes:
    """A socket that gives these bytes and then ends."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._content)


async def _head(stream: Stream) -> bytes:
    """Status line and headers, with interim answers (RFC 9110, section 15.2) before them."""
    head = b""
    while True:
        lines = [await stream.readline()]
        while lines[0].startswith(b"HTTP/") and lines[-1].strip(b"\r\n"):
            if len(lines) > _MOST_LINES:
                break
            lines.append(await stream.readline())
        head += b"".join(lines)
        if not _INTERIM.match(lines[0]):
            return head


async def _read_body(stream: Stream, body: bytearray, length: int | None, most: int) -> None:
    """Read a body of a known length, or up to the end of the connection."""
    while length is None or len(body) < length:
        wanted = _PIECE if length is None else min(_PIECE, length - len(body))
        piece = await stream.read(wanted)
        if not piece and length is not None:
            raise ConnectionError("its answer was cut")
        if not piece:
            return
        _append(body, piece, most)


async def _read_chunks(stream: Stream, body: bytearray, most: int) -> None:
    """Read a chunked body (RFC 9112, section 7.1)."""
    while True:
        digits = (await stream.readline()).partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,16}", digits):
            raise ConnectionError("its answer was cut")
        if size := int(digits, 16):
            end = len(body) + size
            await _read_body(stream, body, end, most)
            await stream.readline()
            continue
        while (line := await stream.readline()).strip(b"\r\n"):
            if len(line) > _LONGEST_LINE:
                raise ConnectionError("its answer was cut")
        return


def _append(body: bytearray, piece: bytes, most: int) -> None:
    body += piece
    if len(body) > most:
        raise TooLarge


class BlockingStream:
    """A stream over a socket. Its coroutines never suspend."""

    deadline = 0.0

    async def connect(
        self, host: str, port: int, context: ssl.SSLContext | None, timeout_s: float
    ) -> None:
        self._socket = socket.create_connection((host, port), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context:
            self._socket = context.wrap_socket(self._socket, server_hostname=host)
        self._file = io.BufferedReader(_Timed(self))

    async def write(self, content: bytes) -> None:
        self._socket.settimeout(_left(self.deadline))
        self._socket.sendall(content)

    async def readline(self) -> bytes:
        return self._file.readline(_LONGEST_LINE)

    async def read(self, most: int) -> bytes:
        return self._file.read1(most)

    def receive_into(self, buffer: Any) -> int:
        """Receive some bytes, until the deadline at most."""
        self._socket.settimeout(_left(self.deadline))
        return self._socket.recv_into(buffer)

    def close(self) -> None:
        if hasattr(self, "_socket"):
            self._socket.close()


class _Timed(io.RawIOBase):
    """The bytes that a stream receives, as a file."""

    def __init__(self, stream: BlockingStream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._stream.receive_into(buffer)


class AsyncioStream:
    """A stream of asyncio."""

    deadline = 0.0

    async def connect(
        self, host: str, port: int, context: ssl.SSLContext | None, timeout_s: float
    ) -> None:
        name = host if context else None
        opening = asyncio.open_connection(
            host, port, ssl=context, server_hostname=name, limit=_LONGEST_LINE
        )
        try:
            self._reader, self._writer = await _within(timeout_s, opening)
        except OSError as error:  # asyncio replaces the system's text by one of its own
            if not error.errno or isinstance(error, ssl.SSLError | socket.gaierror):
                raise
            raise OSError(error.errno, os.strerror(error.errno)) from None

    async def write(self, content: bytes) -> None:
        self._writer.write(content)
        await _within(_left(self.deadline), self._writer.drain())

    async def readline(self) -> bytes:
        try:
            return await _within(_left(self.deadline), self._reader.readline())
        except ValueError:  # the line is longer than the limit
            raise http.client.LineTooLong("head") from None

    async def read(self, most: int) -> bytes:
        return await _within(_left(self.deadline), self._reader.read(most))

    def close(self) -> None:
        if hasattr(self, "_writer"):
            self._writer.close()


async def _within(timeout_s: float, waiting: Coroutine[Any, Any, Result]) -> Result:
    try:
        return await asyncio.wait_for(waiting, timeout_s)
    except asyncio.TimeoutError:  # noqa: UP041  (another class than TimeoutError before Python 3.11)
        raise TimeoutError from None


def _left(deadline: float) -> float:
    """Seconds until a deadline.

    Raises:
        TimeoutError: The deadline has passed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
