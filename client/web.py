"""Downloads one file over http or https, with limits of its size and of the total time."""

from __future__ import annotations

import http.client
import io
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from functools import partial
from typing import Any

from seresnext101_triton.client.errors import ImageError
from seresnext101_triton.client.text import reason, shortened

_CHUNK = 1 << 20  # bytes; one read of all allowed bytes would reserve memory for them
_OVERHEAD = 1 << 20  # bytes of headers and chunk marks
_COMPRESSED = {
    "gzip": 31,
    "x-gzip": 31,
    "deflate": 47,
}  # zlib's window bits: 31 means gzip, 47 means zlib or gzip
_KEPT_AS_IT_IS = "%/:=&?~#+!$,;'@()*[]"  # of a URL; spaces and letters outside ASCII are escaped


def fetch(url: str, max_bytes: int, timeout_s: float) -> bytes:
    """Download one file.

    Args:
        url: A URL of http or https. Redirects to other schemes are not followed.
        max_bytes: One byte more is read at most, so that the caller sees that there is more.
        timeout_s: Time from the look-up of the host to the last byte, in seconds.

    Raises:
        ImageError: No server answers, it answers with an error, the answer is cut off, or the time
            is over.
    """
    name = shortened(url)
    until = time.monotonic() + timeout_s
    limits = {"until": until, "most": max_bytes + _OVERHEAD}
    try:
        request = urllib.request.Request(urllib.parse.quote(url, safe=_KEPT_AS_IT_IS))  # noqa: S310  (http and https only)
        with _opener(limits).open(request, timeout=timeout_s) as response:
            return _body(response, max_bytes, name)
    except ImageError:
        raise
    except urllib.error.HTTPError as error:
        with error:
            raise ImageError(
                f"{name} cannot be fetched: {error.code} {shortened(str(error.reason))}"
            ) from error
    except Exception as error:  # http.client, socket, ssl, zlib and idna have a base class each
        if time.monotonic() >= until:
            raise ImageError(
                f"{name} cannot be fetched: it took longer than {timeout_s:g} s"
            ) from error
        cause = (
            error.reason
            if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException)
            else error
        )
        raise ImageError(f"{name} cannot be fetched: {reason(cause)}") from error


def _opener(limits: dict[str, Any]) -> urllib.request.OpenerDirector:
    """The handlers of `urllib.request.urlopen` for http and https, with limits."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Http(limits),
        _Https(limits),
    ):
        opener.add_handler(handler)
    return opener


def _body(response: http.client.HTTPResponse, max_bytes: int, name: str) -> bytes:
    encoding = (response.headers.get("Content-Encoding") or "identity").strip().lower()
    if encoding in _COMPRESSED:
        return _inflated(response, _COMPRESSED[encoding], max_bytes, name)
    if encoding != "identity":
        raise ImageError(
            f"{name} cannot be fetched: its Content-Encoding {shortened(encoding)!r} is not one of "
            "identity, gzip, deflate"
        )
    content = bytearray()
    while len(content) <= max_bytes and (
        part := response.read(min(_CHUNK, max_bytes + 1 - len(content)))
    ):
        content += part
    if response.length and len(content) <= max_bytes:
        raise ImageError(
            f"{name} was cut off: {response.length} bytes of {len(content) + response.length} did "
            "not arrive"
        )
    return bytes(content)


def _inflated(response: http.client.HTTPResponse, window: int, max_bytes: int, name: str) -> bytes:
    """A body that the server compressed without being asked, as some stores do."""
    inflater, content = zlib.decompressobj(window), bytearray()
    while len(content) <= max_bytes and not inflater.eof and (part := response.read(_CHUNK)):
        while part and len(content) <= max_bytes:
            content += inflater.decompress(part, max_bytes + 1 - len(content))
            part = inflater.unconsumed_tail
    if not inflater.eof and len(content) <= max_bytes:
        raise ImageError(f"{name} was cut off: its compressed body has no end")
    return bytes(content)


class _Limited(io.RawIOBase):
    """Reads from a socket, with a deadline and a largest number of bytes.

    The socket's own timeout begins anew with every byte, and urllib reads the body of a redirect to
    its end.
    """

    def __init__(self, connection: socket.socket, until: float, most: int) -> None:
        self._socket = connection
        self._until = until
        self._left = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0:
            raise OSError("the answer has no end")
        self._socket.settimeout(_remaining(self._until))
        count = self._socket.recv_into(buffer)
        self._left -= count
        return count


class _Response(http.client.HTTPResponse):
    """A response whose status line, headers and body are within the limits."""

    def __init__(
        self, connection: socket.socket, *arguments: Any, until: float, most: int, **options: Any
    ) -> None:
        super().__init__(connection, *arguments, **options)
        self._socket_file = self.fp  # keeps the socket open until this response is closed
        self.fp = io.BufferedReader(_Limited(connection, until, most))

    def close(self) -> None:
        super().close()
        self._socket_file.close()


class _Connection(http.client.HTTPConnection):
    """A connection that has a deadline and whose responses are within the limits."""

    def __init__(self, *arguments: Any, until: float, most: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._until = until
        self.response_class = partial(_Response, until=until, most=most)  # type: ignore[assignment]

    def connect(self) -> None:
        self.timeout = _remaining(self._until)
        super().connect()


class _TlsConnection(_Connection, http.client.HTTPSConnection):
    """The same over TLS."""


class _Http(urllib.request.HTTPHandler):
    def __init__(self, limits: dict[str, Any]) -> None:
        super().__init__()
        self._limits = limits

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Connection, **self._limits), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, limits: dict[str, Any]) -> None:
        super().__init__()
        self._limits = limits

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_TlsConnection, **self._limits), req)


def _remaining(until: float) -> float:
    seconds = until - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the time is used up")
    return seconds
