"""Finds out which protocol a port speaks, to tell a person the right scheme."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

from seresnext101_triton.client.address import Address
from seresnext101_triton.client.protocols import Protocol, all_protocols

_TIMEOUT_S = 1.0
_ANSWER_BYTES = 9  # the head of a frame of HTTP/2


def hint(address: Address) -> str:
    """A sentence that names the right scheme, if it is another one than the address's, else "".

    This takes some seconds at most. No header and no token is sent.
    """
    try:
        found = _spoken_at(address)
    except OSError:
        return ""
    if found is None:
        return ""
    protocol, tls = found
    if (protocol.name, tls) == (address.protocol, address.tls):
        return ""
    spoken = protocol.title
    if tls:
        spoken += " with TLS"
    elif address.tls:
        spoken += " without TLS"
    return f"This port speaks {spoken}: write {protocol.scheme(tls)}://{address.netloc}"


def _spoken_at(address: Address) -> tuple[Protocol, bool] | None:
    """The protocol at an address, and whether TLS is used; None if it is unknown.

    The address's own protocol is tried first, because a gateway may speak several at one port.

    Raises:
        OSError: Nothing accepts connections there.
    """
    protocols = sorted(all_protocols(), key=lambda protocol: protocol.name != address.protocol)
    for tls in (True, False):
        for protocol in protocols:
            answer = _answer(address, protocol, tls)
            if answer is None:
                break
            if protocol.answers_greeting(answer):
                return protocol, tls
    return None


def _answer(address: Address, protocol: Protocol, tls: bool) -> bytes | None:
    """The first bytes of the answer to a greeting; None if TLS was tried and is not spoken."""
    with socket.create_connection((address.host, address.port), _TIMEOUT_S) as connection:
        stream: socket.socket = connection
        if tls:
            try:
                context = _context(protocol)
                stream = context.wrap_socket(connection, server_hostname=address.host)
            except ssl.SSLError as error:
                # An alert is TLS as well: the server wants a certificate, or another protocol.
                return b"" if "ALERT" in (error.reason or "") else None
            except (OSError, ValueError):
                return None
        answer = b""
        with stream, suppress(OSError):
            stream.sendall(protocol.greeting)
            while len(answer) < _ANSWER_BYTES and (piece := stream.recv(_ANSWER_BYTES)):
                answer += piece
        return answer


def _context(protocol: Protocol) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The server is only asked what it speaks. Nothing secret is sent.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([protocol.alpn])
    return context
