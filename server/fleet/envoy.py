"""Runs an Envoy, and starts it again when it has died."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from seresnext101_triton import as_typed
from seresnext101_triton.server.control import LOAD_TIMEOUT_S
from seresnext101_triton.server.cores import usable_cores
from seresnext101_triton.server.errors import InstallationError, ServerError, WorkspaceError
from seresnext101_triton.server.fleet.gateway import (
    PROTOCOLS,
    Endpoint,
    Gateway,
    Message,
    assignment,
)
from seresnext101_triton.server.ports import occupied
from seresnext101_triton.server.process import ServerProcess, ending
from seresnext101_triton.server.supervision import Backoff, Patience

_PROGRAM = "envoy"
_LONGEST_SOCKET = 107  # bytes of a Unix socket's path (unix(7), sun_path)
_TAKEN_PORT = re.compile(r"cannot bind '.*:(\d+)'.*in use")
_ANSWER_TIMEOUT_S = 5.0
_POLL_S = 0.1


def find_envoy() -> Path:
    """The Envoy of this Python environment, or else the one on PATH.

    Raises:
        InstallationError: There is none.
    """
    own = Path(sys.executable).with_name(_PROGRAM)
    found = own if own.is_file() else shutil.which(_PROGRAM)
    if not found:
        raise InstallationError(as_typed("envoy is not installed: pip install '.[fleet]'"))
    return Path(found)


def admin_socket(folder: Path) -> Path:
    """The path of the Unix socket for Envoy's own pages, in a folder of this user only.

    Raises:
        WorkspaceError: The path is too long for a socket.
    """
    path = folder / "admin"
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise WorkspaceError(
            f"the path {path} is too long for a Unix socket: name another folder in $TMPDIR"
        )
    return path


class Envoy:
    """An Envoy that is kept running. All methods return at once, except `drain` and `stop`.

    The kernel ends it if the thread ends that calls `start` and `look`.

    Args:
        folder: Where its configuration is written, in one file. Only this user can read it.
        gateway: What it does. It has an `admin_socket` and a `rotation`.
        lock: A descriptor that it keeps open.
        say: A function that is called with each line for a person.
        note: A function that is called with each line of its log, if `verbose`.
        verbose: Whether to print its log.

    Attributes:
        restarts: How often it died and was started again.

    Raises:
        InstallationError: There is no Envoy.
    """

    def __init__(  # noqa: PLR0913  (one argument for each independent option)
        self,
        folder: Path,
        gateway: Gateway,
        *,
        lock: int,
        say: Callable[[str], None],
        note: Callable[[str], None],
        verbose: bool = False,
    ) -> None:
        assert gateway.admin_socket is not None
        self._program, self._folder = find_envoy(), folder
        self._gateway, self._admin = gateway, gateway.admin_socket
        self._lock, self._say, self._note, self._verbose = lock, say, note, verbose
        self._process: ServerProcess | None = None
        self._patience = Patience()
        self._backoff = Backoff(self._patience)
        self._is_down = self._is_starting = False
        self._since = 0.0
        self.restarts = 0

    @property
    def is_recovering(self) -> bool:
        """Whether it is being started again."""
        return self._is_down or self._is_starting

    @property
    def pid(self) -> int:
        """Its process id. It is known after `start`."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start its process, for the first time or again."""
        configuration = self._folder / "envoy.json"
        configuration.write_text(self._gateway.to_text())
        self._gateway.write_rotation()
        self._process = ServerProcess(
            [
                str(self._program),
                *("--config-path", str(configuration)),
                "--disable-hot-restart",  # it would leave shared memory behind when it is killed
                *("--concurrency", str(usable_cores())),
                *("--log-level", "info" if self._verbose else "warning"),
            ],
            os.environ,
            self._folder,
            lock=self._lock,
            note=self._note,
            verbose=self._verbose,
        )

    def is_up(self) -> bool:
        """Whether it takes requests and knows which servers are ready, asked once.

        Raises:
            PortInUse: Another process listens on one of its ports.
            ServerError: It has ended.
        """
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise self._ended(code)
        with suppress(OSError, http.client.HTTPException):
            return self._ask("GET", "/ready") == b"LIVE"
        return False

    def send_to(self, servers: tuple[Endpoint, ...]) -> None:
        """Have the servers get requests, or not, as they say."""
        if servers != self._gateway.servers:
            self._gateway = replace(self._gateway, servers=servers)
            self._gateway.write_rotation()

    def follows(self) -> bool:
        """Whether it does what `send_to` has said. One that starts reads it first."""
        if self.is_recovering:
            return True
        with suppress(OSError, http.client.HTTPException, ValueError, KeyError):
            configs = json.loads(self._ask("GET", "/config_dump?include_eds"))["configs"]
            clusters = {
                each["endpoint_config"]["cluster_name"]: _sharing(each["endpoint_config"])
                for config in configs
                for each in config.get("static_endpoint_configs", ())
            }
            return all(
                clusters[name] == _sharing(assignment(name, self._gateway)) for name in PROTOCOLS
            )
        return False

    def look(self) -> None:
        """Look once, and do what is to be done.

        Raises:
            ServerError: It has died too often.
        """
        assert self._process is not None
        if self._is_down:
            if self._backoff.is_due():
                self._is_down, self._is_starting = False, True
                self.restarts += 1
                self.start()
        elif self._is_starting:
            self._wait_for_it()
        elif (code := self._process.poll()) is not None:
            self._went_down(f"Envoy ended with {ending(code)}")

    def drain(self, timeout_s: float) -> None:
        """Take no new connections, have clients leave, and wait until all requests are answered.

        Args:
            timeout_s: How long to wait, in seconds.
        """
        deadline = time.monotonic() + timeout_s
        with suppress(OSError, http.client.HTTPException, ValueError):
            self._ask("POST", "/healthcheck/fail")  # answers then end their connections
            self._ask("POST", "/drain_listeners")
            while self._requests() and time.monotonic() < deadline:
                time.sleep(_POLL_S)

    def stop(self) -> None:
        """End it. This can be called at any time."""
        if self._process is not None:
            self._process.end()

    def _wait_for_it(self) -> None:
        try:
            if not self.is_up():
                if time.monotonic() - self._since > LOAD_TIMEOUT_S:
                    raise ServerError("Envoy was not ready in time")
                return
        except ServerError as error:
            self._went_down(str(error).partition("\n")[0].rstrip(":"))
            return
        self._is_starting = False
        self._backoff.recovered()
        self._say(f"Envoy: ready again after {time.monotonic() - self._since:.1f} s")

    def _went_down(self, why: str) -> None:
        assert self._process is not None
        if not self._is_starting:
            self._since = time.monotonic()
        self._process.end()
        if not self._backoff.died():
            raise ServerError(
                f"{why}, after it was started again {self._patience.attempts} times:\n"
                f"{self._log_tail()}"
            )
        self._is_down, self._is_starting = True, False
        self._say(f"{why}; it is started again")

    def _ended(self, code: int) -> ServerError:
        """Why it ended before it was up."""
        assert self._process is not None
        self._process.settle_log()
        log = self._log_tail()
        if taken := _TAKEN_PORT.search(log):
            port = int(taken[1])
            name = "grpc" if port == self._gateway.grpc else "http"
            return occupied(self._gateway.address, name, port)
        return ServerError(f"Envoy ended with {ending(code)} before it was ready:\n{log}")

    def _log_tail(self) -> str:
        assert self._process is not None
        return "\n".join(self._process.log()[-20:])

    def _requests(self) -> int:
        """The requests of clients that it has not answered yet."""
        wanted = quote(r"^http\.(grpc|http)\.downstream_rq_active$")  # not those of its own pages
        text = self._ask("GET", f"/stats?format=json&filter={wanted}")
        return sum(int(each.get("value", 0)) for each in json.loads(text)["stats"])

    def _ask(self, method: str, path: str) -> bytes:
        connection = _UnixConnection(self._admin)
        try:
            connection.request(method, path, headers={"Connection": "close"})
            return connection.getresponse().read().strip()
        finally:
            connection.close()


def _sharing(assignment: Message) -> dict[int, tuple[int, Message]]:
    """The weight of the server at each port, and by what it is chosen."""
    return {
        each["endpoint"]["address"]["socket_address"]["port_value"]: (
            each.get("load_balancing_weight", 1),
            each["metadata"]["filter_metadata"].get("envoy.lb", {}),
        )
        for group in assignment["endpoints"]
        for each in group["lb_endpoints"]
    }


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
