"""The two protocols that Triton speaks, behind one interface: gRPC, which is the faster, and HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import InferenceServerException

from client.errors import ClientError
from client.shared_memory import SharedTensors

PROTOCOLS = ("grpc", "http")
COMPRESSIONS = ("gzip", "deflate")
_TRITON_TYPES = {np.dtype(np.float32): "FP32", np.dtype(np.float16): "FP16", np.dtype(np.uint8): "UINT8"}


@dataclass(frozen=True)
class Tls:
    """How a TLS connection is made. All files are PEM.

    Attributes:
        ca: Certificates of the authorities that are trusted; the system's where it is None.
        certificate: Ours, for mutual TLS.
        key: The key of ours.

    Raises:
        ClientError: A file is missing, or only one of certificate and key was given.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ClientError("mutual TLS takes both a certificate and its key: --tls-cert and --tls-key")
        for file in filter(None, (self.ca, self.certificate, self.key)):
            if not file.is_file():
                raise ClientError(f"{file} does not exist")


@dataclass(frozen=True)
class Link:
    """How a server is spoken to.

    Attributes:
        protocol: `grpc` or `http`.
        timeout_s: Deadline of one request, in seconds.
        retries: How often a request is sent again when no server answered; never when one refused.
        headers: Sent with every request; a token, for example.
        tls: None is plain text.
        compression: `gzip`, `deflate` or None. Prepared images hardly shrink: only a slow network repays the time.
        shared_memory: Hand tensors over in shared memory, to a server on this machine that allows it; else they are sent, after one
            warning.

    Raises:
        ClientError: A value is not one of these.
    """

    protocol: str = "grpc"
    timeout_s: float = 60.0
    retries: int = 2
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: Tls | None = None
    compression: str | None = None
    shared_memory: bool = False

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ClientError(f"protocol must be one of {', '.join(PROTOCOLS)}, not {self.protocol!r}")
        if self.compression not in (None, *COMPRESSIONS):
            raise ClientError(f"compression must be one of {', '.join(COMPRESSIONS)}, not {self.compression!r}")
        if self.timeout_s <= 0 or self.retries < 0:
            raise ClientError("the timeout must be above 0, and the retries not below")


class Transport(Protocol):
    """One protocol to one server. Its methods raise what tritonclient raises, and may be called from several threads."""

    def is_live(self) -> bool:
        """Whether the server answers."""

    def is_ready(self) -> bool:
        """Whether all its models are ready."""

    def index(self) -> list[Mapping[str, str]]:
        """Name, version, state and reason of everything in its repository."""

    def server(self) -> Mapping[str, Any]:
        """Its name, version and extensions."""

    def versions(self, model: str, version: str) -> list[str]:
        """The versions of a model that answer."""

    def config(self, model: str, version: str) -> pb.ModelConfig:
        """A model's config."""

    def infer(self, model: str, version: str, input: str, batch: np.ndarray, output: str, classes: int) -> np.ndarray | None:
        """One output for one batch; with `classes`, that many highest entries of it, as Triton's classification extension gives them."""

    def close(self) -> None:
        """End the connection."""


def connect(url: str, link: Link) -> Transport:
    """A transport to `host:port`; nothing is sent yet."""
    return Grpc(url, link) if link.protocol == "grpc" else Http(url, link)


class Grpc:
    """gRPC: one channel, which any thread may use."""

    def __init__(self, url: str, link: Link) -> None:
        import tritonclient.grpc as triton

        self._triton, self._link = triton, link
        tls = link.tls or Tls()
        self._client = triton.InferenceServerClient(
            url,
            ssl=link.tls is not None,
            root_certificates=tls.ca and str(tls.ca),
            certificate_chain=tls.certificate and str(tls.certificate),
            private_key=tls.key and str(tls.key),
            channel_args=[
                ("grpc.max_send_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
                ("grpc.max_receive_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
                # A server that has just started is noticed at once, not after gRPC's backoff of up to two minutes.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
                # A connection that a firewall dropped in silence is noticed while a request waits on it.
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                *_proxy_options(url),
            ],
        )
        self._shared = SharedTensors() if link.shared_memory else None
        self._options = {"client_timeout": link.timeout_s, "headers": dict(link.headers)}

    def is_live(self) -> bool:
        return bool(self._client.is_server_live(**self._options))

    def is_ready(self) -> bool:
        return bool(self._client.is_server_ready(**self._options))

    def index(self) -> list[Mapping[str, str]]:
        models = self._client.get_model_repository_index(**self._options).models
        return [{name: getattr(model, name) for name in ("name", "version", "state", "reason")} for model in models]

    def server(self) -> Mapping[str, Any]:
        return dict(self._client.get_server_metadata(as_json=True, **self._options))

    def versions(self, model: str, version: str) -> list[str]:
        return list(self._client.get_model_metadata(model, version, **self._options).versions)

    def config(self, model: str, version: str) -> pb.ModelConfig:
        return self._client.get_model_config(model, version, **self._options).config

    def infer(self, model: str, version: str, input: str, batch: np.ndarray, output: str, classes: int) -> np.ndarray | None:
        ask = partial(self._client.infer, model, model_version=version, compression_algorithm=self._link.compression, **self._options)
        return _infer(self._triton, self._client, self._shared, ask, input, batch, output, classes)

    def close(self) -> None:
        if self._shared:
            self._shared.close(self._client)
        self._client.close()


class Http:
    """HTTP: a client for each thread, because tritonclient's belongs to the thread that made it."""

    def __init__(self, url: str, link: Link) -> None:
        import tritonclient.http as triton

        self._triton, self._url, self._link = triton, url, link
        self._threads = threading.local()
        self._shared = SharedTensors() if link.shared_memory else None
        self._headers = dict(link.headers)

    @property
    def _client(self) -> Any:
        if not hasattr(self._threads, "client"):
            options: dict[str, Any] = {}
            if self._link.tls:
                options = {"ssl": True, "ssl_context_factory": self._tls_context}
            timeout = self._link.timeout_s
            self._threads.client = self._triton.InferenceServerClient(
                self._url, connection_timeout=timeout, network_timeout=timeout, **options
            )
        return self._threads.client

    def _tls_context(self) -> Any:
        from gevent.ssl import PROTOCOL_TLS_CLIENT, SSLContext

        tls = self._link.tls or Tls()
        context = SSLContext(PROTOCOL_TLS_CLIENT)
        if tls.ca:
            context.load_verify_locations(str(tls.ca))
        else:
            context.load_default_certs()
        if tls.certificate:
            context.load_cert_chain(str(tls.certificate), str(tls.key))
        return context

    def is_live(self) -> bool:
        return bool(self._ask("is_server_live"))

    def is_ready(self) -> bool:
        return bool(self._ask("is_server_ready"))

    def index(self) -> list[Mapping[str, str]]:
        return [dict.fromkeys(("version", "state", "reason"), "") | model for model in self._ask("get_model_repository_index")]

    def server(self) -> Mapping[str, Any]:
        return dict(self._ask("get_server_metadata"))

    def versions(self, model: str, version: str) -> list[str]:
        return list(self._ask("get_model_metadata", model, version)["versions"])

    def config(self, model: str, version: str) -> pb.ModelConfig:
        return json_format.ParseDict(self._ask("get_model_config", model, version), pb.ModelConfig())

    def _ask(self, question: str, *about: object, **options: object) -> Any:
        """Call tritonclient, and give a connection that was cut its usual exception."""
        from geventhttpclient.response import HTTPParseError

        ask: Callable[..., Any] = getattr(self._client, question)
        try:
            return ask(*about, headers=self._headers, **options)
        except HTTPParseError as error:
            raise ConnectionError(str(error)) from None

    def infer(self, model: str, version: str, input: str, batch: np.ndarray, output: str, classes: int) -> np.ndarray | None:
        compression = {f"{way}_compression_algorithm": self._link.compression for way in ("request", "response")}
        ask = partial(self._ask, "infer", model, model_version=version, **compression)
        return _infer(self._triton, self._client, self._shared, ask, input, batch, output, classes)

    def close(self) -> None:
        if self._shared:
            self._shared.close(self._client)
        if hasattr(self._threads, "client"):
            self._threads.client.close()


def _infer(
    triton: Any,
    client: Any,
    shared: SharedTensors | None,
    ask: Callable[..., Any],
    input: str,
    batch: np.ndarray,
    output: str,
    classes: int,
) -> np.ndarray | None:
    """One request, in the words that tritonclient has for both protocols.

    The batch is handed over in shared memory where that is wanted and possible, else in the request.
    """
    wanted = [triton.InferRequestedOutput(output, class_count=classes)]

    def send() -> np.ndarray | None:
        answer: np.ndarray | None = ask(inputs=[tensor], outputs=wanted).as_numpy(output)
        return answer

    if shared:
        tensor = triton.InferInput(input, list(batch.shape), _TRITON_TYPES[batch.dtype])
        try:
            with shared.filled(client, tensor, batch):
                return send()
        except InferenceServerException as error:
            if "shared memory" not in str(error):
                raise
            shared.give_up(error)  # a server that was started anew knows no region
    tensor = triton.InferInput(input, list(batch.shape), _TRITON_TYPES[batch.dtype])
    tensor.set_data_from_numpy(batch)
    return send()


def _proxy_options(url: str) -> list[tuple[str, int]]:
    """A proxy in the environment is for other machines; gRPC would ask it for this one as well."""
    host = url.rpartition(":")[0].strip("[]")
    return [("grpc.enable_http_proxy", 0)] if host in ("localhost", "::1") or host.startswith("127.") else []
