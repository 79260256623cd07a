"""The options that every command of the client shares: which server, and how it is spoken to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.connection import Connection
    from client.images import Opening
    from client.transport import Link

PROTOCOLS = ("grpc", "http")


def add_server(parser: argparse.ArgumentParser) -> None:
    """The server and the way to it."""
    server = parser.add_argument_group("server")
    server.add_argument(
        "--url",
        metavar="HOST:PORT",
        help="the server, or several with commas between, any of which may answer (default: $TRITON_URL, else this machine; port 8001, "
        "for HTTP 8000)",
    )
    server.add_argument("--protocol", choices=PROTOCOLS, default="grpc", help="default: grpc, which is the faster")
    server.add_argument("--timeout", type=float, default=60.0, metavar="S", help="deadline of one request (default: 60)")
    server.add_argument("--retries", type=int, default=2, metavar="N", help="when nobody answers, never when refused (default: 2)")
    server.add_argument("--header", action="append", default=[], type=_header, metavar="NAME:VALUE", help="sent along; may be repeated")
    server.add_argument("--compression", choices=("gzip", "deflate"), help="for slow networks; prepared images hardly shrink")
    server.add_argument("--shared-memory", action="store_true", help="hand tensors over in memory, to a server on this machine")
    server.add_argument("--tls", action="store_true", help="speak TLS, trusting the system's authorities")
    server.add_argument("--tls-ca", type=Path, metavar="PEM", help="speak TLS, trusting these authorities")
    server.add_argument("--tls-cert", type=Path, metavar="PEM", help="our certificate, for mutual TLS")
    server.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")


def add_opening(parser: argparse.ArgumentParser) -> None:
    """How pictures are opened."""
    pictures = parser.add_argument_group("pictures")
    pictures.add_argument("--no-orientation", action="store_true", help="leave pictures as they lie, as NVIDIA's tools do")
    pictures.add_argument("--draft", action="store_true", help="decode large JPEGs at a fraction of their size: fast, not exact")
    pictures.add_argument("--max-pixels", type=int, metavar="N", help="refuse larger pictures (default: 89478485)")


def add_throughput(parser: argparse.ArgumentParser) -> None:
    """How many images go where at once."""
    parser.add_argument("--batch", type=positive, metavar="N", help="images in a request (default: from the server's config)")
    parser.add_argument("--in-flight", type=positive, metavar="N", help="requests at the same time (default: from the server's config)")


def link_of(options: argparse.Namespace) -> Link:
    """How the server is spoken to.

    Raises:
        ClientError: Options are out of range, or a file is missing.
    """
    from client.transport import Link, Tls

    wanted = options.tls or options.tls_ca or options.tls_cert or options.tls_key
    tls = Tls(options.tls_ca, options.tls_cert, options.tls_key) if wanted else None
    return Link(options.protocol, options.timeout, options.retries, dict(options.header), tls, options.compression, options.shared_memory)


def connection_of(options: argparse.Namespace) -> Connection:
    """A connection to the server."""
    from client.classifier import default_url
    from client.connection import Connection

    return Connection(options.url or default_url(options.protocol), link_of(options))


def opening_of(options: argparse.Namespace) -> Opening:
    """How pictures are opened."""
    from client.images import Opening

    given = {"max_pixels": options.max_pixels} if options.max_pixels else {}
    return Opening(orient=not options.no_orientation, **given)


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:VALUE")
    return name.strip().lower(), value.strip()
