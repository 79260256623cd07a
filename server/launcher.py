"""Starts a tritonserver for a model repository, waits until it is ready, and ends it."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seresnext101_triton.client.connection import Connection
from seresnext101_triton.client.served import ModelState
from seresnext101_triton.client.transport import TransportOptions
from seresnext101_triton.server import installation
from seresnext101_triton.server.backends import REPOSITORY_VARIABLE
from seresnext101_triton.server.errors import (
    InstallationError,
    LoadError,
    PortInUse,
    ServerError,
)
from seresnext101_triton.server.models import needs_of, served_models, without

LOCALHOST = "127.0.0.1"
LOAD_TIMEOUT_S = 600.0
EXIT_TIMEOUT_S = 10
_LOG_LINES_KEPT = 200
_PR_SET_PDEATHSIG = 1
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (where Linux keeps POSIX shared memory)
_ANY_INTERFACE = ("0.0.0.0", "::")  # noqa: S104
_PARSE_ERROR = "[libprotobuf ERROR"
_SEVERE = re.compile(r"^[EF]\d{4} ")


@dataclass(frozen=True)
class Ports:
    """The ports of the three endpoints. 0 means a free port.

    Attributes:
        grpc: Port for gRPC.
        http: Port for HTTP.
        metrics: Port for metrics.
    """

    grpc: int = 8001
    http: int = 8000
    metrics: int = 8002

    def resolve(self, address: str) -> Ports:
        """These ports with a free port in place of each 0.

        Args:
            address: The interface to listen on.

        Raises:
            PortInUse: Another process listens on a requested port.
        """
        taken: list[socket.socket] = []
        asked = [port for port in vars(self).values() if port]
        if len(set(asked)) < len(asked):
            raise PortInUse(f"each endpoint needs a port of its own, and not {asked}")
        try:
            for name, port in vars(self).items():
                candidate = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
                taken.append(candidate)
                candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    candidate.bind((address, port))
                except (OSError, OverflowError) as error:
                    raise PortInUse(_why_not(error, address, name, port)) from None
            return Ports(*(candidate.getsockname()[1] for candidate in taken))
        finally:
            for candidate in taken:
                candidate.close()


def _why_not(error: OSError | OverflowError, address: str, name: str, port: int) -> str:
    """Why the server cannot listen on a port, and what to do about it."""
    why = error.strerror if isinstance(error, OSError) else "no such port"
    text = f"cannot listen on {address}:{port} ({why})"
    if isinstance(error, socket.gaierror) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
        return f"{text}: `address` must be an address of this machine, for example 127.0.0.1"
    if getattr(error, "errno", None) == errno.EADDRINUSE:
        text += ": another server may be running"
    return f"{text}. Choose another with `{name}_port`, or a free one with `{name}_port=0`"


class Server:
    """A running tritonserver.

    Use it as a context manager. The exit ends the server and all processes that it started.

    Args:
        repository: The model repository. Folders without a version are left out, because with them
            Triton would never be ready.
        ports: The ports to listen on.
        address: The interface to listen on. The default is this machine only, because the embedded
            server's core lacks later security fixes.
        verbose: Whether to print the server's whole log to standard error, not only its errors.
        only: Names of the models to serve. If it is empty, all models are served.
        control: Whether clients may load and unload models, also with another config.

    Attributes:
        ports: The ports on which the server listens. They are known after `start`.
        models: The models that it serves. They are known after `wait_until_ready`.
    """

    def __init__(  # noqa: PLR0913  (one argument for each independent option)
        self,
        repository: Path,
        *,
        ports: Ports | None = None,
        address: str = LOCALHOST,
        verbose: bool = False,
        only: Sequence[str] = (),
        control: bool = False,
    ) -> None:
        self.repository = repository
        self._only = only
        self._control = ["--model-control-mode=none"]
        if control:
            self._control = ["--model-control-mode=explicit", "--load-model=*"]
        self.address = address
        self.ports = ports or Ports()
        self.models: list[ModelState] = []
        self._verbose = verbose
        self._ready = False
        self._log: deque[str] = deque(maxlen=_LOG_LINES_KEPT)
        self._process: subprocess.Popen[str] | None = None
        self._workspace: tempfile.TemporaryDirectory[str] | None = None
        self._shared_memory = f"triton-{os.getpid()}-{id(self):x}-"

    @property
    def url(self) -> str:
        """`host:port` of the gRPC endpoint for clients on this machine."""
        host = LOCALHOST if self.address in _ANY_INTERFACE else self.address
        return f"[{host}]:{self.ports.grpc}" if ":" in host else f"{host}:{self.ports.grpc}"

    @property
    def pid(self) -> int:
        """The process id of the server. It is known after `start`."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Server:
        try:
            self.start()
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server's process. The kernel ends it if this process ends.

        Raises:
            ServerError: There is no model, no tritonserver, or a port is in use.
        """
        folders = served_models(self.repository, self._only)
        self.ports = self.ports.resolve(self.address)
        self._workspace = tempfile.TemporaryDirectory(prefix="tritonserver-")
        workspace = Path(self._workspace.name)
        self._view = workspace / "models"
        self._view.mkdir()
        triton = installation.find(workspace)
        if not triton.passes_bytes:
            folders = self._without_bytes(folders)
        for folder in folders:
            (self._view / folder.name).symlink_to(folder.resolve())
        self._process = subprocess.Popen(
            [
                str(triton.executable),
                f"--model-repository={self._view}",
                *triton.arguments,
                *self._arguments(),
            ],
            # The stub (the process in which Triton runs a Python backend) puts its working
            # directory first on sys.path. The backends import `seresnext101_triton` from there.
            cwd=Path(__file__).parents[2],
            env=os.environ | triton.environment | {REPOSITORY_VARIABLE: str(self._view)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches only this process, which ends the server
            preexec_fn=_end_with_parent,
        )
        self._pump = threading.Thread(target=self._pump_log, daemon=True)
        self._pump.start()

    def wait_until_ready(self, timeout_s: float = LOAD_TIMEOUT_S) -> None:
        """Return as soon as every model has been loaded and warmed up.

        Raises:
            LoadError: A model could not be loaded. The message has the server's reason.
            ServerError: The server ended, or took longer than `timeout_s` seconds.
        """
        assert self._process is not None
        with Connection(self.url, TransportOptions(retries=0)) as connection:
            # The server opens its ports as soon as every model is loaded or has failed.
            for _ in range(round(timeout_s / 0.1)):
                if connection.is_live():
                    break
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.1)
                    code = self._process.returncode
                    raise ServerError(
                        f"tritonserver ended with code {code} before it was ready:\n"
                        f"{self.log_tail()}"
                    )
            else:
                raise ServerError(
                    f"tritonserver was not ready within {timeout_s:.0f} s:\n{self.log_tail()}"
                )
            self.models = connection.models()
            failed = [model for model in self.models if model.state != "READY"]
            if failed:
                lines = [
                    f"model {model.name!r} cannot be loaded: {self._reason(model)}"
                    for model in failed
                ]
                if len(failed) < len(self.models):
                    lines.append("serve the others with `only=NAME`")
                raise LoadError("\n".join(lines))
            if not connection.is_ready():
                lines = ["tritonserver does not call itself ready:"]
                raise LoadError("\n".join(lines + list(filter(_SEVERE.match, self._log))))
        self._ready = True

    def wait(self) -> int:
        """Block until the server ends, and return its exit code."""
        assert self._process is not None
        return self._process.wait()

    def stop(self) -> None:
        """End the server after it has answered the requests in flight.

        This can be called at any time.
        """
        self._ready = False
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_TIMEOUT_S + 5)
            # Stubs and other processes that are left are in the server's process group.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._pump.join()
        for region in _SHARED_MEMORY.glob(f"{self._shared_memory}*"):
            region.unlink(missing_ok=True)
        if self._workspace is not None:
            self._workspace.cleanup()

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the server's log."""
        return "\n".join(list(self._log)[-lines:])

    def _without_bytes(self, folders: list[Path]) -> list[Path]:
        """Leave out what takes image files as BYTES, and say so.

        Raises:
            InstallationError: A model that was named is among it.
        """
        kept = without(folders, [folder for folder in folders if needs_of(folder).bytes])
        left_out = [folder.name for folder in folders if folder not in kept]
        if not left_out:
            return kept
        why = (
            "with numpy 2, the embedded tritonserver cannot take image files as BYTES: export the "
            "model again with `image_input=uint8`, or install numpy 1.26"
        )
        if set(left_out) & set(self._only) or not kept:
            raise InstallationError(f"{', '.join(left_out)} cannot be served: {why}")
        print(f"left out: {', '.join(left_out)}: {why}", file=sys.stderr, flush=True)
        return kept

    def _reason(self, model: ModelState) -> str:
        """Why a model cannot be loaded. If its config cannot be parsed, only the log has this."""
        logged = [
            line
            for line in self._log
            if line.startswith(_PARSE_ERROR) or (_SEVERE.match(line) and f"'{model.name}'" in line)
        ]
        reason = model.reason or " ".join(line.partition("] ")[2].strip('"') for line in logged)
        # What follows " At: /" is the place in a backend's code.
        plain = " ".join(reason.split()).partition(" At: /")[0]
        return plain.replace(str(self._view), str(self.repository))

    def _arguments(self) -> list[str]:
        return [
            *self._control,
            "--exit-on-error=false",  # the repository index then has the reason
            "--strict-readiness=true",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            f"--grpc-address={self.address}",
            f"--http-address={self.address}",
            f"--metrics-address={self.address}",
            f"--grpc-port={self.ports.grpc}",
            f"--http-port={self.ports.http}",
            f"--metrics-port={self.ports.metrics}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory}",
        ]

    def _pump_log(self) -> None:
        """Keep the end of the log, and print the lines that a user should see."""
        assert self._process is not None and self._process.stdout is not None
        with self._process.stdout as log:
            for line in log:
                self._log.append(line.rstrip("\n"))
                if self._verbose or (self._ready and _SEVERE.match(line)):
                    print(line, end="", file=sys.stderr, flush=True)


def _end_with_parent() -> None:
    """Let the kernel end the server when this process is killed (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
