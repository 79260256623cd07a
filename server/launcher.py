"""Starts a tritonserver on a model repository, waits until every model answers, and ends it again."""

from __future__ import annotations

import ctypes
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

from client.connection import Connection, ModelState
from client.transport import Link
from server import installation
from server.backends import REPOSITORY_VARIABLE
from server.errors import LoadError, PortInUse, RepositoryError, ServerError

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
    """Where the three endpoints listen; 0 asks for a free one."""

    grpc: int = 8001
    http: int = 8000
    metrics: int = 8002

    def resolve(self, address: str) -> Ports:
        """These ports, with every 0 replaced by a free one.

        Raises:
            PortInUse: A port that was asked for by number is taken.
        """
        taken: list[socket.socket] = []
        try:
            for name, port in vars(self).items():
                candidate = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
                taken.append(candidate)
                candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    candidate.bind((address, port))
                except OSError as error:
                    raise PortInUse(
                        f"cannot listen on {address}:{port} ({error.strerror}): another server may be running. "
                        f"Choose another with --{name}-port, or a free one with --{name}-port 0"
                    ) from None
            return Ports(*(candidate.getsockname()[1] for candidate in taken))
        finally:
            for candidate in taken:
                candidate.close()


def served_models(repository: Path, names: Sequence[str] = ()) -> list[Path]:
    """The folders of a repository that have something to serve: at least one numbered version.

    Args:
        repository: The model repository.
        names: The models to serve; all of them where none is named.

    Raises:
        RepositoryError: There is no such folder, nothing in it has been exported, or a model that was named is not there.
    """
    if not repository.is_dir():
        raise RepositoryError(f"{repository} is not a folder: name a model repository with --repository")
    models = [
        folder
        for folder in sorted(repository.iterdir())
        if folder.is_dir() and not folder.name.startswith(".") and any(path.name.isdigit() for path in folder.iterdir())
    ]
    if not models:
        raise RepositoryError(f"{repository} holds no exported model. Export one: python -m export --weights ngc --repository {repository}")
    if unknown := set(names) - {folder.name for folder in models}:
        known = ", ".join(folder.name for folder in models)
        raise RepositoryError(f"{repository} holds no exported model {', '.join(sorted(unknown))}: choose from {known}")
    return [folder for folder in models if not names or folder.name in names]


class Server:
    """A running tritonserver. Use it as a context manager; leaving it ends the server and whatever it started.

    Args:
        repository: The model repository. Folders without a version are left out, since Triton would call itself not ready for them.
        ports: Where to listen.
        address: The interface to listen on; the embedded server's core lacks later security fixes, so this machine only by default.
        verbose: Copy the server's whole log to standard error, and not just its errors.
        only: Names of the models to serve; all of them where none is named.
        control: Let clients load and unload models, with another config too.

    Attributes:
        ports: Where it listens, once started.
        models: What it serves, once ready.
    """

    def __init__(
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
        self._control = ["--model-control-mode=explicit", "--load-model=*"] if control else ["--model-control-mode=none"]
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
        """`host:port` of the gRPC endpoint, as a client on this machine reaches it."""
        host = LOCALHOST if self.address in _ANY_INTERFACE else self.address
        return f"{host}:{self.ports.grpc}"

    @property
    def pid(self) -> int:
        """Of the process, once started."""
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
        """Start the process. It cannot outlive ours.

        Raises:
            ServerError: Nothing to serve, no tritonserver, or a port in use.
        """
        models = served_models(self.repository, self._only)
        self.ports = self.ports.resolve(self.address)
        self._workspace = tempfile.TemporaryDirectory(prefix="tritonserver-")
        workspace = Path(self._workspace.name)
        self._view = workspace / "models"
        self._view.mkdir()
        for folder in models:
            (self._view / folder.name).symlink_to(folder.resolve())
        triton = installation.find(workspace)
        self._process = subprocess.Popen(
            [str(triton.executable), f"--model-repository={self._view}", *triton.arguments, *self._arguments()],
            # The stub puts its working directory first on sys.path: there our backends find the package `server`.
            cwd=Path(__file__).parent.parent,
            env=os.environ | triton.environment | {REPOSITORY_VARIABLE: str(self._view)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for us; we end the server
            preexec_fn=_end_with_parent,
        )
        self._pump = threading.Thread(target=self._pump_log, daemon=True)
        self._pump.start()

    def wait_until_ready(self, timeout_s: float = LOAD_TIMEOUT_S) -> None:
        """Return once every model has been loaded and warmed up.

        Raises:
            LoadError: A model could not be loaded; the message has the server's own reason.
            ServerError: The server ended, or took longer than `timeout_s` seconds.
        """
        assert self._process is not None
        with Connection(self.url, Link(retries=0)) as connection:
            # The server opens its ports when loading is over, well or badly.
            for _ in range(round(timeout_s / 0.1)):
                if connection.is_live():
                    break
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.1)
                    raise ServerError(f"tritonserver ended with code {self._process.returncode} before it was ready:\n{self.log_tail()}")
            else:
                raise ServerError(f"tritonserver was not ready within {timeout_s:.0f} s:\n{self.log_tail()}")
            self.models = connection.models()
            failed = [model for model in self.models if model.state != "READY"]
            if failed:
                reasons = [f"model {model.name!r} cannot be loaded: {self._reason(model)}" for model in failed]
                way_out = ["serve the others with --model NAME"] if len(failed) < len(self.models) else []
                raise LoadError("\n".join(reasons + way_out))
            if not connection.is_ready():
                raise LoadError("\n".join(["tritonserver does not call itself ready:", *filter(_SEVERE.match, self._log)]))
        self._ready = True

    def wait(self) -> int:
        """Block until the server ends, and return its exit code."""
        assert self._process is not None
        return self._process.wait()

    def stop(self) -> None:
        """End the server: requests in flight are answered first. Safe to call at any time."""
        self._ready = False
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_TIMEOUT_S + 5)
            with suppress(ProcessLookupError):  # what is left of it, stubs included, is in its own process group
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

    def _reason(self, model: ModelState) -> str:
        """The server's own words; for a config it cannot parse they are in its log only."""
        logged = [line for line in self._log if line.startswith(_PARSE_ERROR) or (_SEVERE.match(line) and f"'{model.name}'" in line)]
        reason = model.reason or " ".join(line.partition("] ")[2].strip('"') for line in logged)
        return " ".join(reason.split()).replace(str(self._view), str(self.repository))

    def _arguments(self) -> list[str]:
        return [
            *self._control,
            "--exit-on-error=false",  # so that the repository index can be asked for the reason
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
        """Keep the end of the log, and pass on what a person should see."""
        assert self._process is not None and self._process.stdout is not None
        with self._process.stdout as log:
            for line in log:
                self._log.append(line.rstrip("\n"))
                if self._verbose or (self._ready and _SEVERE.match(line)):
                    print(line, end="", file=sys.stderr, flush=True)


def _end_with_parent() -> None:
    """Have the kernel end the server when we are killed, so that no server is ever left behind (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
