"""An Envoy that is kept running, without a server behind it."""

from __future__ import annotations

import http.client
import http.server
import os
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest

from seresnext101_triton.server.cores import usable_cores
from seresnext101_triton.server.errors import (
    InstallationError,
    PortInUse,
    ServerError,
    WorkspaceError,
)
from seresnext101_triton.server.fleet import envoy as module
from seresnext101_triton.server.fleet.envoy import Envoy, admin_socket, find_envoy
from seresnext101_triton.server.fleet.gateway import Endpoint, Gateway
from seresnext101_triton.server.ports import LOCALHOST, Ports
from seresnext101_triton.server.supervision import Patience
from tests.waiting import until

Started = Callable[..., Envoy]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path that is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def gateway(folder) -> Gateway:
    ports = [Ports(0, 0, 0).resolve(LOCALHOST) for _ in range(3)]
    return Gateway(
        tuple(Endpoint(LOCALHOST, each.grpc, each.http) for each in ports[:2]),
        LOCALHOST,
        ports[2].grpc,
        ports[2].http,
        admin_socket=admin_socket(folder),
        shares_ports=False,
        rotation=folder,
    )


@pytest.fixture
def start(folder, gateway) -> Iterator[Started]:
    """A function that starts an Envoy, which is ended with the test."""
    started: list[Envoy] = []
    lock = os.open(folder, os.O_RDONLY)

    def run(
        said: Callable[[str], None] = lambda _: None,
        servers: tuple[Endpoint, ...] = gateway.servers,
        **options: Any,
    ) -> Envoy:
        given = {"note": lambda _: None} | options
        front = replace(gateway, servers=servers)
        envoy = Envoy(folder, front, lock=lock, say=said, **given)
        started.append(envoy)
        envoy.start()
        return envoy

    yield run
    for each in started:
        each.stop()
    os.close(lock)


def test_it_follows_its_servers_and_comes_back_when_it_has_died(start, folder, gateway):
    said: list[str] = []
    envoy = start(said.append)
    assert until(envoy.is_up) and envoy.follows() and not envoy.is_recovering
    process = psutil.Process(envoy.pid)
    assert process.name() == "envoy" and "--disable-hot-restart" in process.cmdline()
    first, second = gateway.servers
    unwritten = replace(gateway, servers=(first, replace(second, extra="m/5")))
    other = Envoy(folder, unwritten, lock=0, say=said.append, note=said.append)
    for servers in (
        (replace(first, is_aside=True), second),
        (first, replace(second, weight=3)),
        (replace(first, extra="m/4"), replace(second, weight=3)),
        (first, second),
    ):
        envoy.send_to(servers)
        assert until(envoy.follows) and not other.follows()
    envoy.look()
    assert said == [] and envoy.restarts == 0

    os.kill(envoy.pid, signal.SIGKILL)
    assert until(lambda: bool(envoy.look() or said))
    assert said == ["Envoy ended with signal SIGKILL; it is started again"]
    assert envoy.is_recovering and envoy.follows()
    assert until(lambda: bool(envoy.look() or not envoy.is_recovering))
    assert re.fullmatch(r"Envoy: ready again after \d{1,2}\.\d s", said[1]) and len(said) == 2
    assert envoy.restarts == 1 and envoy.pid != process.pid and until(envoy.follows)

    socket.create_connection((LOCALHOST, gateway.http)).close()
    envoy.drain(60)
    assert until(lambda: not accepts(gateway.http)) and not accepts(gateway.grpc)
    envoy.stop()
    assert not psutil.pid_exists(envoy.pid)


class Late(BaseHTTPRequestHandler):
    """Answers requests, but not its health check, as on an overloaded machine."""

    def do_GET(self) -> None:
        status, text = (503, b"") if self.path == "/v2/health/ready" else (200, self.own_port())
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def own_port(self) -> bytes:
        return str(self.connection.getsockname()[1]).encode()

    def log_message(self, *_: object) -> None:
        pass


def test_of_servers_that_all_fail_their_checks_those_in_the_rotation_get_requests(start, gateway):
    with ExitStack() as stack:
        servers = []
        for number, is_aside in enumerate((False, False, True), start=1):
            server = stack.enter_context(ThreadingHTTPServer((LOCALHOST, 0), Late))
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            port = server.server_address[1]
            servers.append(Endpoint(LOCALHOST, number, port, is_aside))
        envoy = start(servers=tuple(servers))
        assert until(envoy.is_up) and until(envoy.follows)
        answers = set()
        for _ in range(20):
            with urlopen(f"http://{LOCALHOST}:{gateway.http}/", timeout=60) as answer:
                answers.add(int(answer.read()))
    assert answers == {each.http for each in servers if not each.is_aside}


def accepts(port: int) -> bool:
    try:
        socket.create_connection((LOCALHOST, port)).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_port_that_is_in_use_is_named(start, gateway, protocol):
    port = getattr(gateway, protocol)
    with socket.create_server((LOCALHOST, port)):
        envoy = start()
        with pytest.raises(PortInUse, match=f"on {LOCALHOST}:{port} .*`{protocol}_port`"):
            until(envoy.is_up)


def test_why_it_could_not_start_is_in_its_log(start, folder):
    envoy = start(verbose=True)
    os.kill(envoy.pid, signal.SIGTERM)
    with pytest.raises(ServerError, match=r"^Envoy ended with (code 0|signal SIGTERM) before it"):
        until(envoy.is_up)


def test_what_envoy_is_told(start, folder, gateway):
    lines: list[str] = []
    envoy = start(note=lines.append)
    arguments = psutil.Process(envoy.pid).cmdline()
    assert until(envoy.is_up)
    assert arguments[-7:] == [
        *("--config-path", f"{folder}/envoy.json", "--disable-hot-restart"),
        *("--concurrency", str(usable_cores()), "--log-level", "warning"),
    ]
    assert (folder / "envoy.json").read_text() == gateway.to_text()
    assert {path.name for path in folder.glob("*.json")} == {"envoy.json", "grpc.json", "http.json"}
    assert lines == []
    envoy.stop()
    loud = start(note=lines.append, verbose=True)
    assert psutil.Process(loud.pid).cmdline()[-1] == "info"
    assert until(lambda: bool(lines))


def test_the_envoy_of_this_environment_is_preferred_to_the_one_on_path(tmp_path, monkeypatch):
    own, other = tmp_path / "own", tmp_path / "other"
    for each in (own, other):
        each.mkdir()
        (each / "envoy").touch(mode=0o755)
    monkeypatch.setattr("sys.executable", str(own / "python"))
    monkeypatch.setenv("PATH", str(other))
    assert find_envoy() == own / "envoy"
    (own / "envoy").unlink()
    assert find_envoy() == other / "envoy"
    (other / "envoy").unlink()
    with pytest.raises(InstallationError, match=r"^envoy is not installed: pip install"):
        find_envoy()


def test_the_longest_path_of_a_socket():
    """sun_path of unix(7) has 108 bytes, with a zero at the end."""
    longest = Path("/", "n" * 100)
    assert len(str(admin_socket(longest))) == 107
    with pytest.raises(WorkspaceError, match=r"too long for a Unix socket: .* in \$TMPDIR"):
        admin_socket(Path("/", "n" * 101))
    with pytest.raises(WorkspaceError):
        admin_socket(Path("/", "é" * 51))


def test_an_envoy_that_dies_too_often_is_given_up(start, gateway, monkeypatch):
    monkeypatch.setattr(module, "Patience", lambda: Patience(0.0, attempts=1, stable_s=600))
    said: list[str] = []
    envoy = start(said.append)
    assert until(envoy.is_up)
    os.kill(envoy.pid, signal.SIGKILL)
    assert until(lambda: bool(envoy.look() or envoy.restarts))
    assert envoy.is_recovering
    os.kill(envoy.pid, signal.SIGKILL)
    with pytest.raises(ServerError) as given_up:
        until(lambda: bool(envoy.look()))
    assert str(given_up.value).startswith(
        "Envoy ended with signal SIGKILL before it was ready, after it was started again 1 times:\n"
    )
    assert said == ["Envoy ended with signal SIGKILL; it is started again"]


def test_an_envoy_that_is_not_ready_in_time_is_started_again(start, monkeypatch):
    monkeypatch.setattr(module, "Patience", lambda: Patience(0.0, attempts=9, stable_s=600))
    said: list[str] = []
    envoy = start(said.append)
    assert until(envoy.is_up)
    os.kill(envoy.pid, signal.SIGKILL)
    assert until(lambda: bool(envoy.look() or envoy.restarts))
    with monkeypatch.context() as patch:
        patch.setattr(envoy, "is_up", lambda: False)
        envoy.look()
        assert len(said) == 1 and envoy.is_recovering
        patch.setattr(module, "LOAD_TIMEOUT_S", 0.0)
        envoy.look()
    assert said[1] == "Envoy was not ready in time; it is started again"
    assert until(lambda: bool(envoy.look() or not envoy.is_recovering)) and envoy.restarts == 2


def test_requests_in_flight_are_waited_for(start, gateway):
    answer = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/v2/health/ready":
                answer.wait(60)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    def ask() -> int:
        connection = http.client.HTTPConnection(LOCALHOST, gateway.http, timeout=60)
        try:
            connection.request("GET", "/v2/slow")
            return connection.getresponse().status
        finally:
            connection.close()

    place = (LOCALHOST, gateway.servers[0].http)
    with http.server.ThreadingHTTPServer(place, Handler) as server, ThreadPoolExecutor(2) as pool:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            envoy = start()
            assert until(envoy.is_up)
            asked = pool.submit(ask)
            while not is_in_flight(envoy, asked):
                asked = pool.submit(ask)  # the server was not known to be ready yet
            envoy.drain(0.0)
            assert not asked.done()
            drained = pool.submit(envoy.drain, 60)
            assert wait([drained], 0.3).not_done
            answer.set()
            assert asked.result(60) == 200 and drained.result(60) is None
        finally:
            answer.set()
            server.shutdown()


def is_in_flight(envoy: Envoy, asked: Future[int]) -> bool:
    return until(lambda: asked.done() or envoy._requests() == 1) and not asked.done()
