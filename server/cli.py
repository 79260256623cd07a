"""The command line: `python -m server --repository DIR`."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seresnext101_triton import add_version, as_typed
from seresnext101_triton.client import timings
from seresnext101_triton.client.errors import ToolkitError, UsageError
from seresnext101_triton.client.options import add_timings, named, waiting
from seresnext101_triton.client.output import flags_of, report, say, with_flags
from seresnext101_triton.client.parser import Parser
from seresnext101_triton.server import TRITON_RELEASE
from seresnext101_triton.server.errors import InstallationError

if TYPE_CHECKING:
    from seresnext101_triton.client.transport import Tls
    from seresnext101_triton.server.session import Kept
    from seresnext101_triton.server.tracing import Tracing

# Those of seresnext101_triton.server.access, which is not imported here, so that `--help` is fast.
_PROTOCOLS = ("model-repository", "shared-memory", "logging", "trace")

_MOST = 64  # replicas: more than any machine has cores for them

_TLS_FLAGS = {"tls.ca": "--tls-ca", "tls.certificate": "--tls-cert", "tls.key": "--tls-key"}

_EPILOG = """\
examples:
  python -m server                                      serve ./model_repository until Ctrl-C
  python -m server --grpc-port 0 --http-port 0 --metrics-port 0
                                                        the same on free ports, which it prints
  python -m server -- python -m client classify cat.jpg
                                                        serve, run one command against it, stop
  python -m server --follow                             load what is exported meanwhile
  python -m server --model seresnext101_onnx@1          serve one version, under this name
  python -m server --replicas 2                         two servers behind one Envoy
  python -m server --repository s3://bucket/models --follow
                                                        the same from an object store
  python -m server --ngc                                serve with NVIDIA's image, in Docker

A model whose process dies is loaded again, and a server that dies is started again.
The command after -- finds the gRPC endpoint in $TRITON_URL, which `python -m client` reads.

exit codes:
  0   stopped by Ctrl-C, SIGTERM, SIGHUP or SIGQUIT; with a command, that command's own code
  1   a model could not be loaded, a port is in use, or the server died too often
  2   wrong usage
  65  a file of a model is not the one that was published
  69  no tritonserver, or a part of it is missing; with --replicas, no Envoy
  73  no room for the server's files: the temporary folder, or shared memory; or an object store
      cannot be read
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        _refuse_without_effect(options)
        if options.ngc:
            return _serve_in_docker(options)
        with timings.measured(options.timings, _writer(options)[1]):
            return _serve(options)
    except ToolkitError as error:
        flags = flags_of(parser) | _TLS_FLAGS
        if options.log_format == "text":
            return report(error, flags)
        _writer(options)[1](f"error: {as_typed(with_flags(error, flags))}")
        return error.exit_code


def _refuse_without_effect(options: argparse.Namespace) -> None:
    """Refuse options that the way of serving does not have.

    Raises:
        UsageError: One was given.
    """
    if options.release and not options.ngc:
        raise UsageError("`release` is of NVIDIA's image: name it together with `ngc`")
    if options.image and not options.ngc:
        raise UsageError("`image` is run in Docker: name it together with `ngc`")
    if options.trace_rate is not None and not options.trace_url:
        raise UsageError("`trace_rate` is of traces: name their collector with `trace_url=URL`")
    if options.soak is not None and not options.follow:
        raise UsageError(
            "`soak` is of versions that come meanwhile: name it together with `follow`"
        )
    if options.replicas and (options.tls_cert or options.tls_key or options.tls_ca):
        raise UsageError("`replicas` and TLS do not go together: the gateway has none")
    for name in ("verbose", "command", "follow", "trace_url", "replicas", "timings"):
        if options.ngc and getattr(options, name):
            what = "a command" if name == "command" else f"`{name}`"
            raise UsageError(f"{what} and `ngc` do not go together: NVIDIA's image is only started")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"a port is a number of 0 to 65535, not {text!r}")
    return int(text)


def _replicas(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 2 and 1 <= int(text) <= _MOST):
        raise argparse.ArgumentTypeError(f"it is a number of 1 to {_MOST}, not {text!r}")
    return int(text)


def _address(text: str) -> str:
    if not text.strip():  # the socket's own meaning of it is every interface
        raise argparse.ArgumentTypeError("it is empty: name an address of this machine")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=as_typed("python -m server"),
        description="Start a tritonserver on a model repository: the one on PATH, or else the one "
        "of the nvidia-pytriton wheel.",
        epilog=as_typed(_EPILOG),
    )
    add_version(parser)
    parser.add_argument(
        "--repository",
        type=named,
        default="model_repository",
        metavar="DIR|URL",
        help="a folder, or s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH, of which what "
        "is served is kept on this machine (default: model_repository)",
    )
    parser.add_argument(
        "--model",
        dest="only",
        action="append",
        default=[],
        metavar="NAME",
        help="serve only this model, or NAME@N, its version N; may be given several times",
    )
    parser.add_argument(
        "--grpc-port",
        type=_port,
        default=8001,
        metavar="PORT",
        help="default: 8001; 0 means a free port",
    )
    parser.add_argument(
        "--http-port",
        type=_port,
        default=8000,
        metavar="PORT",
        help="default: 8000; 0 means a free port",
    )
    parser.add_argument(
        "--metrics-port",
        type=_port,
        default=8002,
        metavar="PORT",
        help="default: 8002; 0 means a free port",
    )
    parser.add_argument(
        "--address",
        type=_address,
        default="127.0.0.1",
        metavar="HOST",
        help="the interface to listen on (default: 127.0.0.1). The embedded server is of release "
        "24.10 and lacks later security fixes: use --ngc to serve other machines",
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        choices=_PROTOCOLS,
        metavar="PROTOCOL",
        help="open a protocol to callers without the key of this launch: "
        f"{', '.join(_PROTOCOLS)}; may be given several times. The key is in a file that only you "
        "can read, where your own client finds it",
    )
    parser.add_argument(
        "--tls-cert", type=Path, metavar="PEM", help="use TLS for gRPC, with this certificate"
    )
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="the key of this certificate")
    parser.add_argument(
        "--tls-ca",
        type=Path,
        metavar="PEM",
        help="take only clients with a certificate of these authorities (mutual TLS)",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="load what is published, promoted or rolled back meanwhile. The version of before "
        "answers until the new one is ready, and stays if the new one cannot be served",
    )
    parser.add_argument(
        "--soak",
        type=waiting,
        metavar="SECONDS",
        help="with --follow: let callers use a version for this time, and go back if more of their "
        "requests fail than before (default: 0)",
    )
    parser.add_argument(
        "--replicas",
        type=_replicas,
        metavar="N",
        help="start N servers, each on its share of the processor cores, and an Envoy at the ports "
        "that shares out the requests and sends those of a server that dies to another one",
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="text (default), or one JSON object in each line",
    )
    parser.add_argument(
        "--trace-url",
        default="",
        metavar="URL",
        help="send OpenTelemetry traces to this collector, for example "
        "http://localhost:4318/v1/traces",
    )
    parser.add_argument(
        "--trace-rate",
        type=int,
        metavar="N",
        help="trace one of N requests (default: 1000); 0 means only those whose caller traces",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="print the server's whole log, not only its errors"
    )
    add_timings(parser)
    parser.add_argument(
        "--response-cache",
        type=int,
        default=0,
        metavar="MIB",
        help="answer requests that equal an earlier one from a cache of this size, for models that "
        "were exported with --response-cache (default: 0, no cache)",
    )
    parser.add_argument(
        "--ngc",
        action="store_true",
        help="print and run the `docker run` line of NVIDIA's image instead",
    )
    parser.add_argument(
        "--release",
        metavar="YY.MM",
        help=f"with --ngc: the release of that image (default: {TRITON_RELEASE})",
    )
    parser.add_argument(
        "--image",
        default="",
        metavar="NAME",
        help="with --ngc: run this image, which was built from server/Dockerfile, and serve the "
        "models that take image files too",
    )
    parser.add_argument(
        "command",
        nargs="*",
        metavar="COMMAND",
        help="after --: a command to run against the server, which then stops",
    )
    return parser


def _serve(options: argparse.Namespace) -> int:
    with timings.part("importing"):
        from seresnext101_triton.server.session import Session
        from seresnext101_triton.server.signals import end_signals
        from seresnext101_triton.server.syncing import folder_of

    tell, note = _writer(options)
    try:
        with folder_of(options.repository, options.only, follow=options.follow, say=tell) as folder:
            server = _kept(options, folder, tell, note)
            with end_signals() as signals:
                tell(f"loading {options.repository} ...")
                return Session(server, signals, tell).run(options.command)
    except KeyboardInterrupt:  # while it was fetched
        tell("stopped")
        return 0


def _kept(
    options: argparse.Namespace,
    folder: Path,
    tell: Callable[[str], None],
    note: Callable[[str], None],
) -> Kept:
    """What is to run: a server, or a fleet."""
    with timings.part("importing"):
        from seresnext101_triton.server.fleet.fleet import Fleet
        from seresnext101_triton.server.keeping import KeptServer
        from seresnext101_triton.server.launcher import Server
        from seresnext101_triton.server.ports import Ports

    common: dict[str, Any] = {
        "ports": Ports(options.grpc_port, options.http_port, options.metrics_port),
        "address": options.address,
        "verbose": options.verbose,
        "only": options.only,
        "allow": options.allow,
        "response_cache_mib": options.response_cache,
        "follow": options.follow,
        "soak_s": options.soak or 0.0,
        "trace": _tracing(options),
        "note": note,
    }
    if options.replicas:
        return Fleet(folder, options.replicas, say=tell, **common)
    return KeptServer(Server(folder, tls=_tls(options), **common), tell)


def _serve_in_docker(options: argparse.Namespace) -> int:
    from seresnext101_triton.server.ngc import Container
    from seresnext101_triton.server.ports import Ports
    from seresnext101_triton.server.signals import end_signals
    from seresnext101_triton.server.store import is_url
    from seresnext101_triton.server.syncing import texts_of

    container = Container(
        texts_of(options.repository),
        Ports(options.grpc_port, options.http_port, options.metrics_port),
        options.address,
        options.release or TRITON_RELEASE,
        options.only,
        options.image,
        options.response_cache,
        options.allow,
        _tls(options),
        url=options.repository if is_url(options.repository) else "",
    )
    _say(shlex.join(container.command()))
    if not shutil.which("docker"):
        raise InstallationError(
            "docker is not installed: run the line above on a machine that has it"
        )
    with end_signals() as signals:
        return container.run(signals)


def _tracing(options: argparse.Namespace) -> Tracing | None:
    from seresnext101_triton.server.tracing import DEFAULT_RATE, Tracing

    if not options.trace_url:
        return None
    rate = DEFAULT_RATE if options.trace_rate is None else options.trace_rate
    return Tracing(options.trace_url, rate)


def _writer(options: argparse.Namespace) -> tuple[Callable[[str], None], Callable[[str], None]]:
    """What writes a line to standard output, and one to standard error, as `--log-format` says."""
    if options.log_format == "text":
        return _say, say
    from seresnext101_triton.server.logs import as_json

    return lambda line: _say(as_json(line)), lambda line: say(as_json(line))


def _tls(options: argparse.Namespace) -> Tls | None:
    from seresnext101_triton.client.transport import Tls

    files = (options.tls_ca, options.tls_cert, options.tls_key)
    return Tls(*files) if any(files) else None


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:  # a closed standard output is no reason to end the server
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
