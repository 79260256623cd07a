"""What every transport offers: one protocol to one server, blocking or with asyncio.

The methods of a transport are coroutines in both cases. Those of a blocking transport never
suspend, so that `seresnext101_triton.client.connection` holds the logic of requests once, for both.
"""

from __future__ import annotations

import math
import re
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from seresnext101_triton.client.address import Address
from seresnext101_triton.client.errors import ContractError, UsageError
from seresnext101_triton.client.protocols import TRANSPORTS, protocol_named

if TYPE_CHECKING:
    from seresnext101_triton.client.shared_memory import SharedTensors

COMPRESSIONS = ("gzip", "deflate")
# Eleven days. gRPC counts nanoseconds in 64 bits and fails above 9.2e9 s.
LONGEST_TIMEOUT_S = 1e6
# Bytes. The scores of 1000 classes of 8 images take 32 kB, and their labels 300 kB.
LARGEST_ANSWER = 256 << 20
TRITON_TYPES = {
    np.dtype(np.float32): "FP32",
    np.dtype(np.float16): "FP16",
    np.dtype(np.uint8): "UINT8",
    np.dtype(np.object_): "BYTES",
}
# RFC 9110, sections 5.1 and 5.5: a field's name is a token, and its value has no line break and no
# NUL.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# Headers that say how the message itself is read. A second one of them breaks the message.
_MESSAGE_HEADERS = {
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "inference-header-content-length",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}


@dataclass(frozen=True)
class Tls:
    """How a TLS connection is made. All files are PEM files.

    Attributes:
        ca: Certificates of the trusted authorities. None means the system's authorities.
        certificate: The client's certificate, for mutual TLS.
        key: The key of the client's certificate, without a passphrase.

    Raises:
        UsageError: A file is missing, cannot be read or has another content, or only one of
            `certificate` and `key` is given.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise UsageError(
                "mutual TLS takes both a certificate and its key: `tls.certificate` and `tls.key`"
            )
        for file in filter(None, (self.ca, self.certificate, self.key)):
            if not file.is_file():
                raise UsageError(f"{file} does not exist, or is not a file: name a PEM file")
        self.context()

    def context(self) -> ssl.SSLContext:
        """The SSL context for these files. It checks the server's name and certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca:
            _load_pem(
                f"{self.ca}, the file of authorities",
                lambda: context.load_verify_locations(cafile=self.ca),
            )
        else:
            context.load_default_certs()
        if self.certificate and self.key:
            certificate, key = str(self.certificate), str(self.key)
            _load_pem(
                f"{certificate} and {key}, the certificate and its key",
                lambda: context.load_cert_chain(certificate, key, password=_refuse_passphrase),
            )
        return context


def _load_pem(what: str, load: Callable[[], None]) -> None:
    try:
        load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        if isinstance(error, PermissionError):
            reason = error.strerror
        elif "PEM" in str(error):  # OpenSSL says "PEM lib" if it finds nothing that it can read
            reason = "not in PEM form, or not that"
        else:
            reason = str(error)
        raise UsageError(f"{what}, cannot be used: {reason}") from None


def _refuse_passphrase() -> str:
    raise ValueError(
        "the key has a passphrase; write it without one: openssl pkey -in KEY -out PLAIN_KEY"
    )


@dataclass(frozen=True)
class TransportOptions:
    """How the client communicates with a server.

    Attributes:
        protocol: `grpc` or `http`. None leaves it to the scheme of the server's address; without
            a scheme it is gRPC.
        timeout_s: Deadline of one request, in seconds; at most `LONGEST_TIMEOUT_S`.
        retries: How often a request is sent again if no server answered. A request that a server
            refused is never sent again.
        headers: Headers of every request, for example a token.
        tls: None means plain text, unless the server's address begins with `https://` or
            `grpcs://`.
        compression: `gzip`, `deflate` or None. Prepared images hardly shrink, so that compression
            is useful only on slow networks.
        shared_memory: Pass tensors in shared memory to a server on this machine that allows it. If
            the server does not, tensors are sent, after one warning.

    Raises:
        UsageError: A value is out of range.
    """

    protocol: str | None = None
    timeout_s: float = 60.0
    retries: int = 2
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: Tls | None = None
    compression: str | None = None
    shared_memory: bool = False

    def __post_init__(self) -> None:
        if self.protocol not in (None, *TRANSPORTS):
            raise UsageError(
                f"protocol must be one of {', '.join(TRANSPORTS)}, not {self.protocol!r}"
            )
        if self.compression not in (None, *COMPRESSIONS):
            raise UsageError(
                f"compression must be one of {', '.join(COMPRESSIONS)}, not {self.compression!r}"
            )
        if not (math.isfinite(self.timeout_s) and 0 < self.timeout_s <= LONGEST_TIMEOUT_S):
            raise UsageError(
                f"the timeout must be above 0 and at most {LONGEST_TIMEOUT_S:.0f} s, not "
                f"{self.timeout_s}"
            )
        if self.retries < 0:
            raise UsageError(f"the number of retries must be at least 0, not {self.retries}")
        for name, value in self.headers.items():
            check_header(name, value, self.protocol)


def check_header(name: str, value: str, protocol: str | None = None) -> None:
    """Check that a header can be sent unchanged.

    The messages repeat the header's name, but never its value, which may be a secret.

    Raises:
        UsageError: `protocol` cannot send the header; or no protocol can, if `protocol` is None.
    """
    if not _HEADER_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a header: use letters, digits, '-', '_' and '.'"
        )
    if name.lower() in _MESSAGE_HEADERS:
        raise UsageError(f"the header {name!r} is set by the protocol itself: leave it out")
    if not _HEADER_VALUE.fullmatch(value):
        raise UsageError(
            f"the value of the header {name!r} has a line break, another control character, or "
            "one beyond Latin-1"
        )
    if protocol is not None:
        protocol_named(protocol).check_header(name, value)


@dataclass(frozen=True)
class Inference:
    """One request for an output.

    Attributes:
        model: Name of the model.
        version: Version of the model; empty leaves it to the server.
        input: Name of the input.
        batch: Content of the input.
        output: Name of the output.
        classes: If it is not 0, the server returns this number of highest entries of the output,
            by Triton's classification extension.
    """

    model: str
    version: str
    input: str
    batch: np.ndarray
    output: str
    classes: int = 0


@dataclass(frozen=True)
class Inferred:
    """The answer to an `Inference`.

    Attributes:
        output: The output; None if the answer lacks it.
        version: The version of the model that answered; empty if the server does not say it.
    """

    output: np.ndarray | None
    version: str = ""


class Transport(ABC):
    """One protocol to one server.

    Any thread may use a blocking transport. A transport of asyncio belongs to one event loop.

    The methods raise `InferenceServerException` with the server's status if the server refuses a
    request, `OSError` if nothing answers, `TimeoutError` if nothing answers in time, and
    `ClientError` if the answer is not Triton's.

    Args:
        address: The server.
        options: How to communicate with it.

    Attributes:
        understood: Whether something at this address has answered in this protocol.
    """

    def __init__(self, address: Address, options: TransportOptions) -> None:
        self.address, self.options = address, options
        self.understood = False
        self._shared: SharedTensors | None = None
        if options.shared_memory:
            from seresnext101_triton.client.shared_memory import SharedTensors

            self._shared = SharedTensors(self._register, self._unregister)

    @abstractmethod
    async def is_live(self) -> bool:
        """Whether the server answers."""

    @abstractmethod
    async def is_ready(self, timeout_s: float | None = None) -> bool:
        """Whether all models are ready. `timeout_s` replaces that of the options."""

    @abstractmethod
    async def is_model_ready(self, model: str, timeout_s: float | None = None) -> bool:
        """Whether a version of the model answers. An unknown model is not ready."""

    @abstractmethod
    async def index(self) -> list[Mapping[str, str]]:
        """Name, version, state and reason of everything in the server's repository."""

    @abstractmethod
    async def server(self) -> Mapping[str, Any]:
        """The server's name, version and extensions."""

    @abstractmethod
    async def versions(self, model: str, version: str) -> list[str]:
        """The versions of a model that answer."""

    @abstractmethod
    async def config(self, model: str, version: str) -> pb.ModelConfig:
        """A model's config."""

    @abstractmethod
    async def statistics(self, model: str, version: str) -> list[service_pb2.ModelStatistics]:
        """What the server has counted of each version of a model, or of all models."""

    async def infer(self, inference: Inference) -> Inferred:
        """One output for one batch.

        The batch is passed in shared memory if the options ask for it and it is possible.
        """
        batch = inference.batch
        shared = None if batch.dtype == np.object_ else self._shared  # objects have no buffer
        region = await shared.take(batch) if shared else None
        if shared and region:
            tensor = self._input(inference)
            tensor.set_shared_memory(region.name, batch.nbytes)
            try:
                return await self._infer(inference, tensor)
            except InferenceServerException as error:
                if "shared memory" not in str(error):
                    raise
                shared.give_up(error)  # a server that was restarted does not know the region
            finally:
                shared.give_back(region)
        tensor = self._input(inference)
        tensor.set_data_from_numpy(batch)
        return await self._infer(inference, tensor)

    async def close(self) -> None:
        """End the connection."""
        if self._shared:
            await self._shared.close()
        await self._close()

    async def _infer(self, inference: Inference, tensor: Any) -> Inferred:
        output = inference.output
        wanted = self.triton.InferRequestedOutput(output, class_count=inference.classes)
        result = await self._send_inference(inference, tensor, wanted)
        response = result.get_response()  # of HTTP, it is a dict
        is_dict = isinstance(response, dict)
        version = response.get("model_version") if is_dict else response.model_version
        try:
            return Inferred(result.as_numpy(output), str(version or ""))
        except Exception as error:  # noqa: BLE001  (numpy and tritonclient raise many types)
            name = type(error).__name__
            raise ContractError(f"the answer's tensor {output!r} cannot be read: {name}") from None

    def _input(self, inference: Inference) -> Any:
        batch = inference.batch
        return self.triton.InferInput(inference.input, list(batch.shape), TRITON_TYPES[batch.dtype])

    @property
    @abstractmethod
    def triton(self) -> Any:
        """Tritonclient's module for this protocol."""

    @abstractmethod
    async def _send_inference(self, inference: Inference, tensor: Any, output: Any) -> Any:
        """Send tritonclient's InferInput and InferRequestedOutput, and return its InferResult."""

    @abstractmethod
    async def _register(self, name: str, key: str, size: int) -> None:
        """Make a region of shared memory known to the server."""

    @abstractmethod
    async def _unregister(self, name: str) -> None:
        """Take a region of shared memory back from the server."""

    @abstractmethod
    async def _close(self) -> None: ...


def connect(address: Address, options: TransportOptions, *, blocking: bool) -> Transport:
    """A transport to a server. Nothing is sent yet.

    Args:
        address: The server.
        options: How to communicate with it.
        blocking: Whether the methods block instead of suspending. If they do not, this function
            must be called in a running event loop.
    """
    module = import_module(TRANSPORTS[address.protocol])
    transport: Transport = module.connect(address, options, blocking=blocking)
    return transport
