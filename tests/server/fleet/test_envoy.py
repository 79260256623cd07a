"""An Envoy that is kept running, without a server behind it."""

from __future__ import annotations

import os
import re
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from seresnext101_triton.server.errors import PortInUse, ServerError
from seresnext101_triton.server.fleet.envoy import Envoy, admin_socket
from seresnext101_triton.server.fleet.gateway import Endpoint, Gateway
from seresnext101_triton.server.ports import LOCALHOST, Ports
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

    def run(said: Callable[[str], None] = lambda _: None, **options: bool) -> Envoy:
        envoy = Envoy(folder, gateway, lock=lock, say=said, note=lambda _: None, **options)
        started.append(envoy)
        envoy.start()
        return envoy

    yield run
    for each in started:
        each.stop()
    os.close(lock)


def test_it_follows_its_servers_and_comes_back_when_it_has_died(start, gateway):
    said: list[str] = []
    envoy = start(said.append)
    assert until(envoy.is_up) and envoy.follows() and not envoy.is_recovering
    process = psutil.Process(envoy.pid)
    assert process.name() == "envoy" and "--disable-hot-restart" in process.cmdline()
    first, second = gateway.servers
    envoy.send_to((replace(first, is_aside=True), second))
    assert until(envoy.follows)
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
