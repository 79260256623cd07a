"""The command line: `python -m server.fleet HOST...` prints the configuration of an Envoy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from seresnext101_triton import add_version, as_typed
from seresnext101_triton.client.errors import ToolkitError
from seresnext101_triton.client.output import flags_of, report
from seresnext101_triton.client.parser import Parser

_DESCRIPTION = """\
Print the configuration of an Envoy (https://www.envoyproxy.io) that shares out requests to several
tritonservers, for gRPC and HTTP. It finds servers that do not answer or are not ready, and sends
their requests to another one.
"""
_EPILOG = """\
examples:
  python -m server.fleet 10.0.0.5 10.0.0.6 > envoy.json
  python -m server.fleet triton-seresnext101-triton-pods.ml --address 0.0.0.0 > envoy.json
                                                  all pods that a headless service lists
  envoy --config-path envoy.json

exit codes:
  0   printed
  2   wrong usage
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        text = _configuration(options)
    except ToolkitError as error:
        return report(error, flags_of(parser))
    sys.stdout.write(text)
    return 0


def _configuration(options: argparse.Namespace) -> str:
    from seresnext101_triton.client.errors import UsageError
    from seresnext101_triton.server.fleet.gateway import Endpoint, Gateway

    hosts = [_host(text) for text in options.host]
    if len(set(hosts)) < len(hosts):
        raise UsageError("each server must be named once")
    ports = (options.grpc_port, options.http_port, options.admin_port)
    if len(set(ports)) < len(ports):
        raise UsageError("`grpc_port`, `http_port` and `admin_port` must differ")
    address = Endpoint(_host(options.address))
    if not address.is_address:
        raise UsageError("`address` must be the address of an interface, for example 0.0.0.0")
    servers = [Endpoint(host, options.server_grpc_port, options.server_http_port) for host in hosts]
    return Gateway(tuple(servers), address.host, *ports).to_text()


def _host(text: str) -> str:
    """A name or an address, as Envoy takes it.

    Raises:
        UsageError: The text is neither.
    """
    from seresnext101_triton.client.address import parse
    from seresnext101_triton.client.errors import UsageError
    from seresnext101_triton.server.fleet.gateway import Endpoint
    from seresnext101_triton.server.ports import bare_address

    name = bare_address(text)
    if Endpoint(name).is_address:
        return name
    if {":", "/"} & set(name):
        raise UsageError(
            f"{text!r} is not the name of a host: write the name alone, and the ports of the "
            "servers with `server_grpc_port` and `server_http_port`"
        )
    return parse(name).host


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"a port is a number of 1 to 65535, not {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=as_typed("python -m server.fleet"),
        description=_DESCRIPTION,
        epilog=as_typed(_EPILOG),
    )
    add_version(parser)
    parser.add_argument(
        "host",
        nargs="+",
        metavar="HOST",
        help="a server: an address, or a name whose addresses are all servers",
    )
    parser.add_argument(
        "--address",
        default="127.0.0.1",
        help="the interface for clients (default: 127.0.0.1, this machine only)",
    )
    for name, default, meaning in (
        ("--grpc-port", 8001, "for clients, gRPC"),
        ("--http-port", 8000, "for clients, HTTP"),
        ("--admin-port", 9901, "of Envoy's own pages, for this machine only"),
        ("--server-grpc-port", 8001, "of every server, gRPC"),
        ("--server-http-port", 8000, "of every server, HTTP"),
    ):
        parser.add_argument(
            name,
            type=_port,
            default=default,
            metavar="PORT",
            help=f"{meaning} (default: {default})",
        )
    return parser
