"""gRPC to one server. It is the faster one of the two protocols."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any
from urllib.parse import quote

import tritonclient.grpc
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.grpc import service_pb2

from seresnext101_triton.client.address import Address
from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.client.protocols import VERSION_HEADER, Meaning, Protocol
from seresnext101_triton.client.transport import (
    LARGEST_ANSWER,
    Inference,
    Transport,
    TransportOptions,
)

# gRPC allows less in headers than HTTP ("Custom-Metadata"):
# https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
_HEADER_NAME = re.compile(r"[0-9a-z_.-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_MEANINGS = {
    # This client cancels no request, so that a server or a gateway has done so to stop.
    "CANCELLED": Meaning.ABSENT,
    "DEADLINE_EXCEEDED": Meaning.DEADLINE,
    "NOT_FOUND": Meaning.NOT_FOUND,
    "PERMISSION_DENIED": Meaning.DENIED,
    "RESOURCE_EXHAUSTED": Meaning.OVERLOADED,
    "UNAUTHENTICATED": Meaning.DENIED,
    "UNAVAILABLE": Meaning.ABSENT,
    "UNIMPLEMENTED": Meaning.NOT_TRITON,
}
# What gRPC says of a web server that speaks HTTP/2:
# https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
_WEB_SERVER_WORDS = ("http2 header with status", "content-type", "stream removed")
# RFC 9113, section 3.4: a client begins with these bytes and a SETTINGS frame; the first frame of a
# server is a SETTINGS frame too, type 4.
_SETTINGS = b"\x04"
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _SETTINGS + bytes(5)


def _meaning_of(status: str, message: str) -> Meaning:
    if status in ("UNKNOWN", "INTERNAL"):
        is_web_server = any(words in message.lower() for words in _WEB_SERVER_WORDS)
        return Meaning.NOT_TRITON if is_web_server else Meaning.REFUSED
    return _MEANINGS.get(status, Meaning.REFUSED)


def _check_header(name: str, value: str) -> None:
    if not _HEADER_NAME.fullmatch(name.lower()):
        raise UsageError(
            f"{name!r} cannot be the name of a header: use letters, digits, '-', '_' and '.'"
        )
    if name.lower().startswith("grpc-"):
        raise UsageError(f"the header {name!r} is set by the protocol itself: leave it out")
    if name.lower().endswith("-bin"):
        raise UsageError(
            f"the header {name!r} holds bytes in gRPC, because it ends in '-bin': name it otherwise"
        )
    if not _HEADER_VALUE.fullmatch(value):
        raise UsageError(
            f"the value of the header {name!r} has a character that gRPC cannot send: use "
            "printable ASCII"
        )


PROTOCOL = Protocol(
    name="grpc",
    title="gRPC",
    schemes={"grpc": False, "grpcs": True},
    port=8001,
    scheme_ports={"grpcs": 443},  # TLS ends at a gateway
    greeting=_GREETING,
    answers_greeting=lambda answer: answer[3:4] == _SETTINGS,
    alpn="h2",
    meaning_of=_meaning_of,
    check_header=_check_header,
    key_header=lambda name: f"triton-grpc-protocol-{name}",
)


def connect(address: Address, options: TransportOptions, *, blocking: bool) -> Transport:
    """See `seresnext101_triton.client.transport.connect`."""
    return _Grpc(address, options, blocking=blocking)


class _Grpc(Transport):
    """One channel."""

    triton = tritonclient.grpc

    def __init__(self, address: Address, options: TransportOptions, *, blocking: bool) -> None:
        super().__init__(address, options)
        tls = options.tls  # no empty `Tls()`: to read the system's authorities takes 30 ms
        self._headers = {name.lower(): value for name, value in options.headers.items()}
        # Where HTTP has the header `Host`, HTTP/2 has ":authority", which is no header for gRPC.
        authority = self._headers.pop("host", None)
        self._client = _client_module(blocking).InferenceServerClient(
            address.netloc,
            ssl=address.tls,
            root_certificates=tls and tls.ca and str(tls.ca),
            certificate_chain=tls and tls.certificate and str(tls.certificate),
            private_key=tls and tls.key and str(tls.key),
            channel_args=[
                ("grpc.max_receive_message_length", LARGEST_ANSWER),
                # A server that has just started is noticed at once. gRPC's own backoff grows to two
                # minutes.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
                # A connection that a firewall dropped is noticed while a request waits on it.
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                # gRPC would ask a proxy of the environment for this machine as well.
                *([("grpc.enable_http_proxy", 0)] if address.is_loopback else []),
                *([("grpc.default_authority", authority)] if authority else []),
            ],
        )

    async def is_live(self) -> bool:
        return bool(await self._call("is_server_live"))

    async def is_ready(self, timeout_s: float | None = None) -> bool:
        return bool(await self._call("is_server_ready", timeout_s=timeout_s))

    async def is_model_ready(self, model: str, timeout_s: float | None = None) -> bool:
        return bool(await self._call("is_model_ready", model, timeout_s=timeout_s))

    async def index(self) -> list[Mapping[str, str]]:
        models = (await self._call("get_model_repository_index")).models
        fields = ("name", "version", "state", "reason")
        return [{field: getattr(model, field) for field in fields} for model in models]

    async def server(self) -> Mapping[str, Any]:
        facts = await self._call("get_server_metadata")
        extensions = list(facts.extensions)
        return {"name": facts.name, "version": facts.version, "extensions": extensions}

    async def versions(self, model: str, version: str) -> list[str]:
        return list((await self._of_model("get_model_metadata", model, version)).versions)

    async def config(self, model: str, version: str) -> pb.ModelConfig:
        return (await self._of_model("get_model_config", model, version)).config

    async def statistics(self, model: str, version: str) -> list[service_pb2.ModelStatistics]:
        answer = await self._of_model("get_inference_statistics", model, version)
        return list(answer.model_stats)

    async def _send_inference(self, inference: Inference, tensor: Any, output: Any) -> Any:
        return await self._of_model(
            "infer",
            inference.model,
            inference.version,
            inputs=[tensor],
            outputs=[output],
            compression_algorithm=self.options.compression,
        )

    async def _register(self, name: str, key: str, size: int) -> None:
        await self._call("register_system_shared_memory", name, key, size)

    async def _unregister(self, name: str) -> None:
        await self._call("unregister_system_shared_memory", name)

    async def _close(self) -> None:
        closing = self._client.close()
        if inspect.isawaitable(closing):
            await closing

    async def _of_model(self, method: str, model: str, version: str, **options: Any) -> Any:
        """Call a method about a model, and tell gateways the version if one is named."""
        headers = {VERSION_HEADER: f"{quote(model, '')}/{quote(version, '')}"} if version else {}
        return await self._call(
            method, model, model_version=version, headers=self._headers | headers, **options
        )

    async def _call(
        self,
        method: str,
        *arguments: Any,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Any:
        """Call a method of tritonclient, which is a coroutine in its module for asyncio."""
        answer = getattr(self._client, method)(
            *arguments,
            client_timeout=timeout_s or self.options.timeout_s,
            headers=headers or self._headers,
            **options,
        )
        return await answer if inspect.isawaitable(answer) else answer


def _client_module(blocking: bool) -> ModuleType:
    if blocking:
        return tritonclient.grpc
    from tritonclient.grpc import aio  # takes time that a blocking client need not spend

    module: ModuleType = aio
    return module
