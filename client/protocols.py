"""The table of protocols that the client speaks, and what must be known before connecting.

To add a protocol, write one module with `PROTOCOL` and `connect` in it, like
`seresnext101_triton.client.transport_grpc`, and add one line to `TRANSPORTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from importlib import import_module

# The module of each protocol. The first protocol is the default.
TRANSPORTS = {
    "grpc": "seresnext101_triton.client.transport_grpc",
    "http": "seresnext101_triton.client.transport_http",
}
# The header that repeats the version that a request of gRPC names, as `MODEL/VERSION`: gateways see
# it there. HTTP has it in the path, quoted in the same way.
VERSION_HEADER = "seresnext101-version"


class Meaning(Enum):
    """What the status of a refused request means."""

    ABSENT = auto()  # no server, or a gateway without a server behind it
    DENIED = auto()
    DEADLINE = auto()
    NOT_FOUND = auto()
    NOT_TRITON = auto()
    OVERLOADED = auto()
    REFUSED = auto()
    TOO_LARGE = auto()


@dataclass(frozen=True)
class Protocol:
    """What the client must know of a protocol before it connects.

    Attributes:
        name: The name that users give.
        title: The name in messages.
        schemes: Whether each URL scheme of this protocol means TLS.
        port: Triton's own port, for addresses without a port.
        scheme_ports: The port that a scheme implies, where it is not Triton's.
        takes_path: Whether an address may have a path.
        greeting: The first bytes that a client sends, to find out what a port speaks.
        answers_greeting: Whether bytes are the beginning of an answer to the greeting.
        alpn: The name of the protocol in TLS (RFC 7301).
        meaning_of: What a refusal means, from its status and its text.
        check_header: Raises `UsageError` if this protocol cannot send a header.
        key_header: The header in which Triton expects the key of a restricted protocol, by the
            key's name.
    """

    name: str
    title: str
    schemes: Mapping[str, bool]
    port: int
    greeting: bytes
    answers_greeting: Callable[[bytes], bool]
    alpn: str
    meaning_of: Callable[[str, str], Meaning]
    check_header: Callable[[str, str], None] = lambda _name, _value: None
    key_header: Callable[[str], str] = str
    scheme_ports: Mapping[str, int] = field(default_factory=dict)
    takes_path: bool = False

    def scheme(self, tls: bool) -> str:
        """The URL scheme for connections with or without TLS."""
        return next(scheme for scheme, encrypted in self.schemes.items() if encrypted == tls)


def protocol_named(name: str) -> Protocol:
    """A protocol of the table."""
    protocol: Protocol = import_module(TRANSPORTS[name]).PROTOCOL
    return protocol


def all_protocols() -> list[Protocol]:
    """The protocols of the table, the default one first."""
    return [protocol_named(name) for name in TRANSPORTS]
