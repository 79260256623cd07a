"""The command line: `python -m server --repository DIR`."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from server import TRITON_RELEASE
from server.errors import InstallationError, ServerError

if TYPE_CHECKING:
    from server.launcher import Server

_EPILOG = """\
examples:
  python -m server                                      serve ./model_repository until Ctrl-C
  python -m server --grpc-port 0 --http-port 0 --metrics-port 0
                                                        the same on free ports, which it prints
  python -m server -- python -m client classify cat.jpg
                                                        serve, run one command against it, stop
  python -m server --ngc                                serve with NVIDIA's image, in Docker

The command after -- finds the gRPC endpoint in $TRITON_URL, which `python -m client` reads.

exit codes:
  0   stopped by Ctrl-C or SIGTERM; with a command, that command's own code
  1   a model could not be loaded, or a port is in use
  2   wrong usage
  69  no tritonserver, or a part of it is missing
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _serve_in_docker(options) if options.ngc else _serve(options)
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m server",
        description="Start a real tritonserver on a model repository: the one on PATH, else the one of the nvidia-pytriton wheel.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repository", type=Path, default=Path("model_repository"), metavar="DIR", help="default: model_repository")
    parser.add_argument("--model", action="append", default=[], metavar="NAME", help="serve only this one; may be repeated")
    parser.add_argument("--grpc-port", type=int, default=8001, metavar="PORT", help="default: 8001; 0 for a free one")
    parser.add_argument("--http-port", type=int, default=8000, metavar="PORT", help="default: 8000; 0 for a free one")
    parser.add_argument("--metrics-port", type=int, default=8002, metavar="PORT", help="default: 8002; 0 for a free one")
    parser.add_argument(
        "--address",
        default="127.0.0.1",
        help="the interface to listen on (default: 127.0.0.1). The embedded server is of 24.10 and lacks later security fixes: "
        "serve others with --ngc",
    )
    parser.add_argument("--control", action="store_true", help="let clients load, reload and unload models")
    parser.add_argument("--verbose", action="store_true", help="show the server's whole log, not just its errors")
    parser.add_argument("--ngc", action="store_true", help="print and run the `docker run` line of NVIDIA's image instead")
    parser.add_argument("--release", default=TRITON_RELEASE, metavar="YY.MM", help=f"of that image (default: {TRITON_RELEASE})")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="after --: run this against the server, then stop")
    return parser


def _serve(options: argparse.Namespace) -> int:
    from server.launcher import Ports, Server

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ports = Ports(options.grpc_port, options.http_port, options.metrics_port)
    server = Server(
        options.repository,
        ports=ports,
        address=options.address,
        verbose=options.verbose,
        only=options.model,
        control=options.control,
    )
    try:
        _say(f"loading {options.repository} ...")
        with server:
            _announce(server)
            if options.command:
                return _run(options.command, server)
            code = server.wait()
            raise ServerError(f"tritonserver ended with code {code}:\n{server.log_tail()}")
    except KeyboardInterrupt:
        _say("stopped")
        return 0


def _announce(server: Server) -> None:
    for model in server.models:
        _say(f"  {model.name} version {model.version}: ready")
    host = server.url.rpartition(":")[0]
    _say(f"gRPC {server.url} · HTTP {host}:{server.ports.http} · metrics http://{host}:{server.ports.metrics}/metrics")


def _run(command: Sequence[str], server: Server) -> int:
    from client.classifier import URL_VARIABLE

    try:
        return subprocess.run(command, env=os.environ | {URL_VARIABLE: server.url}).returncode
    except OSError as error:
        raise ServerError(f"cannot run {command[0]}: {error.strerror}") from None


def _serve_in_docker(options: argparse.Namespace) -> int:
    from server.launcher import Ports
    from server.ngc import docker_command

    ports = Ports(options.grpc_port, options.http_port, options.metrics_port)
    command = docker_command(options.repository, ports, options.address, options.release, options.model)
    _say(shlex.join(command))
    if not shutil.which("docker"):
        raise InstallationError("docker is not installed: run the line above on a machine that has it")
    return subprocess.run(command).returncode


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:  # nobody reads any more, which is no reason to end a server
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
