"""HTTP to one server. An answer that is not Triton's is never taken for one."""

from __future__ import annotations

import gzip
import http.client
import json
import ssl
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import quote

from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from seresnext101_triton.client.address import Address
from seresnext101_triton.client.errors import NotTriton
from seresnext101_triton.client.http_exchange import (
    AsyncioStream,
    BlockingStream,
    Request,
    Stream,
    TooLarge,
    exchange,
    open_stream,
)
from seresnext101_triton.client.protocols import Meaning, Protocol
from seresnext101_triton.client.text import visible
from seresnext101_triton.client.transport import (
    LARGEST_ANSWER,
    Inference,
    Tls,
    Transport,
    TransportOptions,
)

_SHOWN = 80  # characters of an answer that is not Triton's
_AUTOMATIC = 32 + zlib.MAX_WBITS  # tells zlib to read gzip or deflate, as the header says
# Triton says "not ready" with 400, later versions with 503, without a body or with an error in
# JSON.
_NOT_READY = (400, 503)
_REDIRECTS = (301, 302, 303, 307, 308)
# What gateways say of a request, or of the server behind them.
_GATEWAY_MEANINGS = {
    "401": Meaning.DENIED,
    "403": Meaning.DENIED,
    "407": Meaning.DENIED,
    "413": Meaning.TOO_LARGE,
    "429": Meaning.OVERLOADED,
    "502": Meaning.ABSENT,
    "503": Meaning.ABSENT,
    "504": Meaning.ABSENT,
}
_MEANINGS = {"404": Meaning.NOT_FOUND, **_GATEWAY_MEANINGS}

PROTOCOL = Protocol(
    name="http",
    title="HTTP",
    schemes={"http": False, "https": True},
    port=8000,
    # A URL of the web means here what it means everywhere.
    scheme_ports={"http": 80, "https": 443},
    takes_path=True,
    greeting=b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    answers_greeting=lambda answer: answer.startswith(b"HTTP/1."),
    alpn="http/1.1",
    meaning_of=lambda status, _message: _MEANINGS.get(status, Meaning.REFUSED),
)


def connect(address: Address, options: TransportOptions, *, blocking: bool) -> Transport:
    """See `seresnext101_triton.client.transport.connect`."""
    return _Http(address, options, BlockingStream if blocking else AsyncioStream)


@dataclass(frozen=True)
class Answer:
    """What an HTTP server sent.

    Attributes:
        status: For example 200.
        headers: Their names are compared without regard to case.
        body: The body without its compression.
    """

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        """The body's JSON; None if the body is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def error(self) -> str:
        """Triton's own text, `{"error": "..."}` and nothing else; empty for another answer."""
        said = self.json()
        error = said["error"] if isinstance(said, dict) and list(said) == ["error"] else ""
        return error if isinstance(error, str) else ""

    def described(self) -> str:
        """A short description for messages, without control characters."""
        kind = self.headers.get("Content-Type", "no content type").partition(";")[0]
        start = " ".join(self.body[: 4 * _SHOWN].decode("utf-8", "replace").split())[:_SHOWN]
        begins = f", that begins {visible(start)!r}" if start else ", an empty body"
        return f"HTTP {self.status}, {visible(kind)}{begins}"


class _Http(Transport):
    """A connection for each request in flight, kept for later requests.

    Redirects are not followed.
    """

    def __init__(self, address: Address, options: TransportOptions, stream: type[Stream]) -> None:
        super().__init__(address, options)
        self._new_stream = stream
        self._context: ssl.SSLContext | None = None
        if address.tls:
            self._context = (options.tls or Tls()).context()
        self._lock = threading.Lock()
        self._idle: list[Stream] = []

    @property
    def triton(self) -> ModuleType:
        import tritonclient.http  # takes time that a client of gRPC need not spend

        return tritonclient.http

    async def is_live(self) -> bool:
        return await self._is_healthy("v2/health/live")

    async def is_ready(self, timeout_s: float | None = None) -> bool:
        return await self._is_healthy("v2/health/ready", timeout_s)

    async def is_model_ready(self, model: str, timeout_s: float | None = None) -> bool:
        return await self._is_healthy(f"v2/models/{quote(model, safe='')}/ready", timeout_s)

    async def index(self) -> list[Mapping[str, str]]:
        listed = await self._json("POST", "v2/repository/index")
        fields = ("name", "version", "state", "reason")
        if not isinstance(listed, list) or not all(map(_is_indexed, listed)):
            raise self._not_triton("its list of models is not Triton's")
        return [{field: str(model.get(field, "")) for field in fields} for model in listed]

    async def server(self) -> Mapping[str, Any]:
        facts = await self._json("GET", "v2")
        if not isinstance(facts, dict) or not isinstance(facts.get("version"), str):
            raise self._not_triton("it does not say which server it is")
        given = facts.get("extensions")
        extensions = [str(each) for each in given] if isinstance(given, list) else []
        return {"name": facts.get("name"), "version": facts["version"], "extensions": extensions}

    async def versions(self, model: str, version: str) -> list[str]:
        facts = await self._json("GET", _model_path(model, version))
        versions = facts.get("versions") if isinstance(facts, dict) else None
        if not isinstance(versions, list):
            raise self._not_triton(f"it does not say which versions of {model!r} it has")
        return [str(each) for each in versions]

    async def config(self, model: str, version: str) -> pb.ModelConfig:
        config = await self._json("GET", f"{_model_path(model, version)}/config")
        try:
            return json_format.ParseDict(config, pb.ModelConfig(), ignore_unknown_fields=True)
        except (json_format.ParseError, AttributeError, RecursionError, TypeError, ValueError):
            raise self._not_triton(f"what it gives as the config of {model!r} is none") from None

    async def statistics(self, model: str, version: str) -> list[service_pb2.ModelStatistics]:
        path = f"{_model_path(model, version)}/stats" if model else "v2/models/stats"
        facts, response = await self._json("GET", path), service_pb2.ModelStatisticsResponse()
        try:
            return list(
                json_format.ParseDict(facts, response, ignore_unknown_fields=True).model_stats
            )
        except (json_format.ParseError, AttributeError, RecursionError, TypeError, ValueError):
            raise self._not_triton(
                f"what it gives as the statistics of {model!r} is none"
            ) from None

    async def _send_inference(self, inference: Inference, tensor: Any, output: Any) -> Any:
        client = self.triton.InferenceServerClient
        body, json_size = client.generate_request_body([tensor], [output])
        headers = {}
        if json_size is not None:
            headers["Inference-Header-Content-Length"] = str(json_size)
        if compression := self.options.compression:
            body = gzip.compress(body, 6) if compression == "gzip" else zlib.compress(body)
            headers |= {"Content-Encoding": compression, "Accept-Encoding": compression}
        path = f"{_model_path(inference.model, inference.version)}/infer"
        answer = await self._ask("POST", path, body, headers)
        try:
            length = answer.headers.get("Inference-Header-Content-Length")
            result = client.parse_response_body(
                answer.body, header_length=int(length) if length else None
            )
            result.get_response().keys()
            return result
        except Exception:  # noqa: BLE001  (tritonclient raises many types for foreign bytes)
            raise self._not_triton(f"it answers an inference with {answer.described()}") from None

    async def _register(self, name: str, key: str, size: int) -> None:
        facts = json.dumps({"key": key, "offset": 0, "byte_size": size}).encode()
        await self._ask("POST", f"v2/systemsharedmemory/region/{quote(name)}/register", facts)

    async def _unregister(self, name: str) -> None:
        await self._ask("POST", f"v2/systemsharedmemory/region/{quote(name)}/unregister")

    async def _close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for stream in idle:
            stream.close()

    async def _is_healthy(self, path: str, timeout_s: float | None = None) -> bool:
        """Whether the answer is 200 and no page of another server."""
        answer = await self._send("GET", path, timeout_s=timeout_s)
        if answer.status in _NOT_READY and (not answer.body or answer.error()):
            return False
        self._check(answer)
        if answer.body and not isinstance(answer.json(), dict):
            raise self._not_triton(f"it answers {path} with {answer.described()}")
        return True

    async def _json(self, method: str, path: str) -> Any:
        answer = await self._ask(method, path)
        value = answer.json()
        if value is None:
            raise self._not_triton(f"it answers {path} with {answer.described()}")
        return value

    async def _ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        answer = await self._send(method, path, body, headers)
        self._check(answer)
        return answer

    def _check(self, answer: Answer) -> None:
        """Raise the error that a status other than 200 means."""
        if answer.status == 200:
            return
        if answer.status in _REDIRECTS:
            target = visible(answer.headers.get("Location", "elsewhere"))[: 2 * _SHOWN]
            raise self._not_triton(
                f"it redirects to {target} (HTTP {answer.status}), perhaps to a login page"
            )
        status = str(answer.status)
        if error := answer.error():
            raise InferenceServerException(error, status=status)
        if status in _GATEWAY_MEANINGS:
            raise InferenceServerException(answer.described(), status=status)
        raise self._not_triton(f"it answers with {answer.described()}")

    def _not_triton(self, why: str) -> NotTriton:
        return NotTriton(
            f"what answers at {self.address} is not a Triton server: {why}. "
            f"Name Triton's own address in `url`; its port for HTTP is {PROTOCOL.port}"
        )

    async def _send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Send one request and read its answer within the deadline."""
        request = Request(
            method,
            f"{self.address.prefix}/{path}",
            dict(self.options.headers) | dict(headers or {}),
            body,
            deadline=time.monotonic() + (timeout_s or self.options.timeout_s),
            largest_answer=LARGEST_ANSWER,
            heard=self._heard,
        )
        try:
            head, content = await self._exchange(request)
        except TooLarge:
            raise self._not_triton(f"it sends more than {LARGEST_ANSWER >> 20} MiB") from None
        except http.client.HTTPException as error:
            if isinstance(error, OSError):  # the server closed the connection without an answer
                raise
            raise self._not_triton(f"it does not speak HTTP ({type(error).__name__})") from None
        return Answer(head.status, head.headers, self._decompressed(content, head.headers))

    async def _exchange(self, request: Request) -> tuple[http.client.HTTPResponse, bytes]:
        """Use an idle connection, or a new one.

        A server may have closed an idle connection. This shows only when the connection is used,
        and the request is then sent over a new one.
        """
        with self._lock:
            idle = self._idle.pop() if self._idle else None
        stream = idle or self._new_stream()
        try:
            if not idle:
                await open_stream(stream, self.address, self._context, request.deadline)
            head, content = await exchange(stream, self.address, request)
        except BaseException as error:
            stream.close()
            if idle and isinstance(error, OSError) and not isinstance(error, TimeoutError):
                return await self._exchange(request)
            raise
        if head.will_close:
            stream.close()
        else:
            with self._lock:
                self._idle.append(stream)
        return head, content

    def _heard(self) -> None:
        self.understood = True

    def _decompressed(self, body: bytes, headers: http.client.HTTPMessage) -> bytes:
        if headers.get("Content-Encoding", "identity").lower() not in ("gzip", "deflate"):
            return body
        decompressor = zlib.decompressobj(_AUTOMATIC)
        try:
            plain = decompressor.decompress(body, LARGEST_ANSWER)
        except zlib.error:
            raise self._not_triton("its answer is not compressed as it says") from None
        if not decompressor.eof:
            raise self._not_triton(
                f"its compressed answer is cut, or longer than {LARGEST_ANSWER >> 20} MiB"
            )
        return plain


def _model_path(model: str, version: str) -> str:
    path = f"v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def _is_indexed(model: object) -> bool:
    return isinstance(model, dict) and isinstance(model.get("name"), str)
