"""The options that the client's commands share, and what they mean for the library."""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.client.protocols import TRANSPORTS

if TYPE_CHECKING:
    from seresnext101_triton.client.connection import Connection
    from seresnext101_triton.client.images import ImageOptions
    from seresnext101_triton.client.transport import TransportOptions

# The flags of the library's parameters, by the names that the library's errors use.
FLAGS = {
    "address": "--address",
    "batch": "--batch",
    "headers": "--header",
    "draft": "--draft",
    "engine": "--engine",
    "fast": "--fast",
    "metrics_port": "--metrics-port",
    "in_flight": "--in-flight",
    "max_pixels": "--max-pixels",
    "model": "--model",
    "port": "--port",
    "orient": "--no-orientation",
    "ray_address": "--ray-address",
    "server_side": "--server-side",
    "tls.ca": "--tls-ca",
    "tls.certificate": "--tls-cert",
    "tls.key": "--tls-key",
    "top": "--top",
    "url": "--url",
    "workers": "--workers",
    "worst": "--worst",
}
# The limit of transport.py, which is not imported here, so that `--help` is fast.
_LONGEST_S = 1e6


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which server is used and how."""
    server = parser.add_argument_group("server")
    server.add_argument(
        "--url",
        metavar="HOST:PORT",
        help="the server, or several servers with commas between, any of which may answer "
        "(default: $TRITON_URL, or this machine; port 8001, for HTTP 8000). A scheme decides the "
        "protocol: grpc://HOST, grpcs://HOST with TLS, http://HOST, https://HOST with TLS. Without "
        "a port, https:// and grpcs:// mean 443, and http:// means 80",
    )
    server.add_argument(
        "--protocol",
        choices=tuple(TRANSPORTS),
        help="default: the protocol of the URL's scheme, or grpc, which is faster",
    )
    server.add_argument(
        "--timeout",
        type=seconds,
        default=60.0,
        metavar="S",
        help="deadline of one request, in seconds (default: 60)",
    )
    server.add_argument(
        "--retries",
        type=count,
        default=2,
        metavar="N",
        help="how often a request is sent again if no server answered (default: 2). A request that "
        "a server refused is not sent again",
    )
    server.add_argument(
        "--header",
        action="append",
        default=[],
        type=_header,
        metavar="NAME:VALUE",
        help="a header of every request; may be given several times",
    )
    server.add_argument(
        "--compression",
        choices=("gzip", "deflate"),
        help="compress requests, for slow networks; prepared images hardly shrink",
    )
    server.add_argument(
        "--shared-memory",
        action="store_true",
        help="pass tensors in shared memory to a server on this machine",
    )
    server.add_argument("--tls", action="store_true", help="use TLS with the system's authorities")
    server.add_argument("--tls-ca", type=Path, metavar="PEM", help="use TLS with these authorities")
    server.add_argument(
        "--tls-cert", type=Path, metavar="PEM", help="the client's certificate, for mutual TLS"
    )
    server.add_argument(
        "--tls-key", type=Path, metavar="PEM", help="the key of the client's certificate"
    )


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how images are opened."""
    images = parser.add_argument_group("images")
    images.add_argument(
        "--no-orientation",
        action="store_true",
        help="do not turn images as their EXIF orientation says; NVIDIA's tools do not either",
    )
    images.add_argument(
        "--draft",
        action="store_true",
        help="decode large JPEGs at a fraction of their size, which is faster and not exact",
    )
    images.add_argument(
        "--fast",
        action="store_true",
        help="resize with vector instructions, which is faster and not exact: a value of a pixel "
        "can differ by 1 of 255; needs the package cykooz-resizer",
    )
    images.add_argument(
        "--max-pixels",
        type=positive,
        metavar="N",
        help="refuse larger images (default: 89478485)",
    )


def add_server_side(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where images are decoded."""
    parser.add_argument(
        "--server-side",
        choices=("no", "yes", "auto"),
        default="no",
        help="send image files as they are to the model NAME_image, which decodes them; auto: only "
        "if the server has it and answers a photograph faster (default: no)",
    )


def add_throughput(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how many images are classified at the same time."""
    parser.add_argument(
        "--batch",
        type=positive,
        metavar="N",
        help="images in one request (default: from the server's config)",
    )
    parser.add_argument(
        "--in-flight",
        type=positive,
        metavar="N",
        help="requests at the same time (default: from the server's config)",
    )


def transport_options_of(options: argparse.Namespace) -> TransportOptions:
    """How to communicate with the server.

    Raises:
        UsageError: Options contradict one another, or a file of TLS cannot be used.
    """
    from seresnext101_triton.client.transport import Tls, TransportOptions

    counts = Counter(name for name, _ in options.header)
    if repeated := [name for name, times in counts.items() if times > 1]:
        raise UsageError(f"the header {repeated[0]!r} is given twice: give each once")
    uses_tls = options.tls or options.tls_ca or options.tls_cert or options.tls_key
    return TransportOptions(
        protocol=options.protocol,
        timeout_s=options.timeout,
        retries=options.retries,
        headers=dict(options.header),
        tls=Tls(options.tls_ca, options.tls_cert, options.tls_key) if uses_tls else None,
        compression=options.compression,
        shared_memory=options.shared_memory,
    )


def add_timings(parser: argparse.ArgumentParser) -> None:
    """Add `--timings`."""
    parser.add_argument(
        "--timings", action="store_true", help="print where the time went, to standard error"
    )


def connection_of(options: argparse.Namespace) -> Connection:
    """A connection to the server."""
    from seresnext101_triton.client.classifier import default_url
    from seresnext101_triton.client.connection import Connection

    return Connection(options.url or default_url(options.protocol), transport_options_of(options))


def image_options_of(options: argparse.Namespace) -> ImageOptions:
    """How images are opened."""
    from seresnext101_triton.client.images import ImageOptions

    given = {"max_pixels": options.max_pixels} if options.max_pixels else {}
    draft: Literal["model"] | None = "model" if options.draft else None
    return ImageOptions(orient=not options.no_orientation, draft=draft, fast=options.fast, **given)


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    return _whole(text, 1)


def count(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    return _whole(text, 0)


def model_version(text: str) -> str:
    """A version of a model, for argparse; empty leaves it to the server.

    Triton's versions are whole numbers of at least 1.
    """
    return text and str(positive(text))


def port(text: str) -> int:
    """A port from 0 to 65535, for argparse."""
    value = count(text)
    if value > 65535:
        raise argparse.ArgumentTypeError(f"must be at most 65535, not {value}")
    return value


def named(text: str) -> str:
    """A name that is not empty, for argparse: an empty one would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def file(text: str) -> Path:
    """The name of a file, for argparse."""
    return Path(named(text))


def seconds(text: str) -> float:
    """A number of seconds above 0, for argparse."""
    value = waiting(text)
    if not value:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def waiting(text: str) -> float:
    """A number of seconds of at least 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and 0 <= value <= _LONGEST_S):
        raise argparse.ArgumentTypeError(
            f"must be a number of seconds from 0 to {_LONGEST_S:.0f}, not {text!r}"
        )
    return value


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least {least}, not {text!r}"
        )
    return value


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A replacement of `warnings.showwarning` that prints one line without the source code."""
    sys.stderr.write(f"warning: {message}\n")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        # The message does not repeat the text, which may be a secret.
        raise argparse.ArgumentTypeError("a header is NAME:VALUE")
    return name.strip(" \t").lower(), value.strip(" \t")
