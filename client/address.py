"""Reads the address of a server from text. The scheme decides the protocol and TLS."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult

from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.client.protocols import TRANSPORTS, Protocol, all_protocols, protocol_named

# A host name as resolvers take it: the letters of RFC 1123 and the underscore of container
# networks, at most 63 characters in a label and 253 in a name.
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_MAX_HOST_LENGTH = 253
# RFC 3986, "pchar", without "@" and ",", which have another meaning in an address here.
# `_check_path` refuses "." and "..".
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+;=:%-]+)+")


@dataclass(frozen=True)
class Address:
    """Where one server listens, and which protocol it speaks.

    Attributes:
        protocol: A name of `seresnext101_triton.client.protocols.TRANSPORTS`.
        host: A lower-case name, an IPv4 address, or an IPv6 address without brackets.
        port: 1 to 65535.
        tls: Whether the connection uses TLS.
        prefix: A path before `/v2`, for HTTP behind a gateway. It is empty, or it begins with a
            slash and does not end with one.
    """

    protocol: str
    host: str
    port: int
    tls: bool = False
    prefix: str = ""

    @property
    def spoken(self) -> Protocol:
        """The protocol."""
        return protocol_named(self.protocol)

    @property
    def netloc(self) -> str:
        """`host:port`, with brackets around an IPv6 host."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine, so that nobody on a network can read what is sent."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        scheme = f"{self.spoken.scheme(tls=True)}://" if self.tls else ""
        return f"{scheme}{self.netloc}{self.prefix}"


def parse(text: str, protocol: str | None = None, tls: bool = False) -> Address:
    """Read an address.

    Args:
        text: HOST, HOST:PORT or SCHEME://HOST:PORT, the scheme in upper or lower case. Without a
            port it is Triton's own port; but `http://` means 80, `https://` and `grpcs://` 443.
        protocol: The protocol that the user named. None leaves it to the scheme; without a scheme
            it is gRPC.
        tls: Whether the user asked for TLS.

    Raises:
        UsageError: The text is not an address, or it contradicts `protocol` or `tls`.
    """
    text = text.strip()
    # This check comes first, because other messages repeat the text, and with it the password.
    if "@" in text:
        raise UsageError(
            "an address takes no user and no password: send a token in `headers`, for example "
            "'authorization: Bearer TOKEN'"
        )
    if not text.isprintable() or " " in text:
        raise _invalid(text, "it contains a blank or a control character")
    parts = _split(text)
    spoken, encrypted = _spoken(text, parts, protocol, tls)
    host, port = _host_and_port(text, parts.netloc)
    path = _check_path(text, parts.path, spoken)
    default = spoken.scheme_ports.get(parts.scheme, spoken.port)
    return Address(spoken.name, host, port or default, encrypted, path)


def parse_all(
    urls: str | Sequence[str], protocol: str | None = None, tls: bool = False
) -> tuple[Address, ...]:
    """Read the addresses of several servers, any of which may answer a request.

    Args:
        urls: One text with commas between the addresses, or one text for each address.
        protocol: As for `parse`.
        tls: As for `parse`.

    Raises:
        UsageError: There is no address, one is invalid, or they differ in protocol or TLS.
    """
    texts = urls.split(",") if isinstance(urls, str) else urls
    texts = [text.strip() for text in texts if text.strip()]
    if not texts:
        raise UsageError("no URL: name a server as HOST:PORT")
    addresses = tuple(parse(text, protocol, tls) for text in texts)
    if len({(address.protocol, address.tls) for address in addresses}) > 1:
        kinds = ", ".join(
            f"{text} is {address.spoken.title}" + (" with TLS" if address.tls else "")
            for text, address in zip(texts, addresses, strict=True)
        )
        raise UsageError(
            f"all servers must be spoken to in one way, but {kinds}: write the same scheme before "
            "each"
        )
    return addresses


def _invalid(text: str, why: str) -> UsageError:
    return UsageError(f"{text!r} is not the address of a server: {why}")


def _split(text: str) -> SplitResult:
    """Scheme, host with port, and path.

    `urllib.parse.urlsplit` would read `localhost:8000` as the scheme `localhost`.

    Raises:
        UsageError: The address has a query or a fragment.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    before = re.split("[?#]", rest, maxsplit=1)[0]
    if extra := rest[len(before) :]:
        raise _invalid(text, f"leave out everything from {extra!r} on")
    netloc, slash, path = before.partition("/")
    if separator and not scheme:
        scheme = "://"  # no protocol has it, so that the message names it
    return SplitResult(scheme.lower(), netloc, slash + path, "", "")


def _spoken(
    text: str, parts: SplitResult, protocol: str | None, tls: bool
) -> tuple[Protocol, bool]:
    """The protocol, and whether TLS is used.

    Raises:
        UsageError: The scheme is unknown, or it contradicts what the user asked for.
    """
    if not parts.scheme:
        return protocol_named(protocol or next(iter(TRANSPORTS))), tls
    by_scheme = {scheme: one for one in all_protocols() for scheme in one.schemes}
    if parts.scheme not in by_scheme:
        forms = ", ".join(f"{scheme}://HOST:PORT" for scheme in by_scheme)
        raise UsageError(
            f"{text!r} has the scheme {text.partition('://')[0]!r}, which this client does not "
            f"speak: write HOST:PORT, {forms}"
        )
    spoken = by_scheme[parts.scheme]
    if protocol not in (None, spoken.name):
        raise UsageError(
            f"{text!r} is an address for {spoken.title}, but the protocol asked for is {protocol}: "
            "change one of the two"
        )
    encrypted = spoken.schemes[parts.scheme]
    if tls and not encrypted:
        secure = f"{spoken.scheme(tls=True)}://{text.partition('://')[2]}"
        raise UsageError(
            f"{text!r} means plain text, but TLS was asked for: write {secure}, or leave the TLS "
            "options out"
        )
    return spoken, encrypted


def _check_path(text: str, path: str, spoken: Protocol) -> str:
    prefix = path.rstrip("/")
    if prefix and not spoken.takes_path:
        raise UsageError(
            f"{text!r} has a path, which {spoken.title} cannot follow: leave out {path!r}, or "
            "write http:// or https:// before the host"
        )
    if prefix and (not _PATH.fullmatch(prefix) or {".", ".."} & set(prefix.split("/"))):
        raise _invalid(text, f"its path {path!r} is not the path of a URL")
    return prefix


def _host_and_port(text: str, netloc: str) -> tuple[str, int | None]:
    bracketed = re.fullmatch(r"\[([^]]*)](?:(:)(.*))?", netloc)
    if bracketed:
        host, colon, port = bracketed[1], bracketed[2], bracketed[3]
        if not _is_ipv6(host):
            raise _invalid(text, f"{host!r} is not an IPv6 address")
    elif _is_ipv6(netloc):
        raise UsageError(
            f"{text!r} leaves open where its port begins: write an IPv6 address in brackets, as in "
            "[::1]:8001"
        )
    else:
        host, colon, port = netloc.partition(":")
        host = _ascii_host(text, host)
    if colon and not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 1 << 16):
        raise _invalid(text, f"the port must be a number from 1 to 65535, not {port!r}")
    return host.lower(), int(port) if colon else None


def _is_ipv6(host: str) -> bool:
    address, percent, zone = host.partition("%")
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return not percent or bool(_LABEL.fullmatch(zone))


def _ascii_host(text: str, host: str) -> str:
    """A host name as it is sent: other scripts are written in the letters of RFC 3490 ("xn--")."""
    if not host:
        raise UsageError(
            f"{text!r} names no host: write HOST:PORT, for this machine localhost:8001"
        )
    try:
        name = host.lower() if host.isascii() else host.encode("idna").decode().lower()
    except UnicodeError:
        name = ""
    labels = name.removesuffix(".").split(".")
    if len(name) > _MAX_HOST_LENGTH or not all(_LABEL.fullmatch(label) for label in labels):
        raise _invalid(text, f"{host!r} is not the name of a host")
    if name.isdigit():
        raise UsageError(
            f"{text!r} names no host: write HOST:PORT, for this machine localhost:{name}"
        )
    return name
