"""Turns a refusal or a silence of a server into an error with its cause and the way out."""

from __future__ import annotations

import re

from seresnext101_triton.client.address import Address
from seresnext101_triton.client.errors import (
    AccessDenied,
    ClientError,
    NotTriton,
    RequestRejected,
    ServerUnreachable,
)
from seresnext101_triton.client.protocols import Meaning, all_protocols

# Triton refuses overload and restricted calls with UNAVAILABLE, the status of an unreachable
# server. Only the text tells them apart.
_OVERLOAD_WORDS = ("Exceeds maximum queue size", "Request timeout expired")
_RESTRICTION_WORDS = ("This protocol is restricted", "This API is restricted")
# What Triton's Python backend says of an instance whose process has died.
DEAD_STUB = re.compile(r"Stub process '.*' is not healthy")
# What Triton says to all callers whose requests are in one batch, if one of these requests declares
# an impossible number of images, as 0 or 2^32. An own request that is too large is refused alone.
_FOREIGN_SHAPE = re.compile(r"batch size \d+ for '.*', max allowed is \d+")
# gRPC's text before the cause, for example
# "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:8001: ".
_GRPC_PREAMBLE = re.compile(
    r"^failed to connect to all addresses; last error: [A-Z_]+: (ipv[46]:\S+: )?"
)


def refusal(address: Address, status: str, message: str) -> ClientError:
    """The error for a request that a server or a gateway refused.

    Args:
        address: The server's address.
        status: gRPC's name of the status, or HTTP's number.
        message: The text of the refusal.
    """
    message = _one_line(message)
    refused = f"{address} refused the request"
    if any(words in message for words in _RESTRICTION_WORDS):
        return AccessDenied(
            f"{refused}: {message}. This part of the server takes a key: send it in `headers`"
        )
    if DEAD_STUB.search(message):
        return ServerUnreachable(
            f"{address} has lost a process of the model ({message}). `python -m server` starts it "
            "again within seconds; another server must be restarted"
        )
    if _FOREIGN_SHAPE.search(message):
        return ServerUnreachable(
            f"{address} did not run the request, because another caller's request in the same "
            f"batch declares a wrong number of images ({message}). Send it again"
        )
    meaning = address.spoken.meaning_of(status, message)
    if any(words in message for words in _OVERLOAD_WORDS):
        meaning = Meaning.OVERLOADED
    if meaning is Meaning.DENIED:
        return AccessDenied(
            f"{refused} ({status}): {message}. A token may be missing or out of date: send one in "
            "`headers`, for example 'authorization: Bearer TOKEN'"
        )
    if meaning is Meaning.ABSENT:
        return unreachable(address, message)
    if meaning is Meaning.NOT_TRITON:
        return NotTriton(
            f"what answers at {address} is not a Triton server: it does not know Triton's calls "
            f"({message}). {_way_out(address)}"
        )
    if meaning is Meaning.OVERLOADED:
        rejected = RequestRejected(f"{refused}: {message}. It is overloaded: try again later")
        rejected.is_overload = True
        return rejected
    if meaning is Meaning.TOO_LARGE:
        return RequestRejected(
            f"{refused} as too large: {message}. Send fewer images in one request: `batch`"
        )
    return RequestRejected(f"{refused}: {message}")


def unreachable(address: Address, reason: str) -> ServerUnreachable:
    """The error for a server that does not answer."""
    reason = _GRPC_PREAMBLE.sub("", _one_line(reason))
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        cause = f" (its certificate is not trusted: {reason}; name its authority with `tls.ca`)"
    elif "connection refused" in reason.lower():
        cause = ""
    else:
        cause = f" ({reason})"
    return ServerUnreachable(f"no Triton server answers at {address}{cause}. {_way_out(address)}")


def _way_out(address: Address) -> str:
    start = "Start one with `python -m server`, or name" if address.is_loopback else "Name"
    (default, *others) = all_protocols()
    ports = f"{default.port} is Triton's port for {default.title}"
    ports += "".join(f", {other.port} for {other.title}" for other in others)
    return f"{start} another in `url` ({ports})"


def _one_line(text: str) -> str:
    line = " ".join(text.split()).removeprefix("[request id: <id_unknown>] ")
    return "".join(character if character.isprintable() else "?" for character in line)
