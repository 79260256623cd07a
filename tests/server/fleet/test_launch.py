"""A fleet from its start to its end: a real Envoy, and short programs in the place of tritonserver.

`test_fleet.py` has the same with real servers.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from seresnext101_triton.client.launches import running_launches
from seresnext101_triton.server.errors import PortInUse, ServerError, WorkspaceError
from seresnext101_triton.server.fleet.fleet import Fleet
from seresnext101_triton.server.fleet.gateway import Endpoint, Gateway
from seresnext101_triton.server.fleet.metrics import UP
from seresnext101_triton.server.ports import LOCALHOST
from seresnext101_triton.server.registry import WORKSPACE_PREFIX
from tests.conftest import FREE_PORTS, write_model
from tests.server.programs import COMPLETE, Program
from tests.waiting import until


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path that is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def program(folder, monkeypatch) -> Program:
    write_model(folder / "models", "m", COMPLETE, {"model.onnx": b"one"})
    return Program.installed(folder, monkeypatch)


def test_a_fleet_is_known_from_its_start_to_its_end(program, folder):
    said: list[str] = []
    before = set(psutil.Process().children())
    fleet = Fleet(
        folder / "models", 2, ports=FREE_PORTS, say=said.append, allow=["trace"], note=said.append
    )
    try:
        fleet.start()
        assert not fleet.is_up() and not fleet.is_recovering and len(said) == 2  # no manifest
        assert fleet.launch.state == "starting"
        with pytest.raises(ServerError, match="not ready in time"):
            fleet.check_deadline(0.0)
        assert until(fleet.is_up)
        launch = fleet.launch
        gateways = [each for each in running_launches() if each.replicas]
        servers = [each for each in running_launches() if not each.replicas]
        assert gateways == [launch] and len(servers) == 2
        assert (launch.pid, launch.repository) == (os.getpid(), str(folder / "models"))
        assert (launch.replicas, launch.state, launch.address) == (2, "ready", LOCALHOST)
        assert launch.restricted == ("model-repository", "shared-memory", "logging")
        assert {each.key for each in servers} == {launch.key} and launch.shared_memory == ""
        place = Path(launch.workspace)
        assert place.parent == folder / "temporary" and place.name.startswith(WORKSPACE_PREFIX)
        assert stat.S_IMODE(place.stat().st_mode) == 0o700

        gateway = Gateway(
            tuple(Endpoint(LOCALHOST, each.grpc, each.http) for each in servers),
            LOCALHOST,
            launch.grpc,
            launch.http,
            admin_socket=place / "admin",
            shares_ports=False,
            rotation=place,
        )
        # It finds the servers in other files, so that their order does not matter.
        assert (place / "envoy.json").read_text() == gateway.to_text()
        with urlopen(f"http://{LOCALHOST}:{launch.metrics}/metrics", timeout=60) as answer:
            assert f'{UP}{{replica="0"}} 1\n{UP}{{replica="1"}} 1' in answer.read().decode()
        assert [each.name for each in fleet.models] == ["m"] and fleet.is_live()
        assert said[-2:] == [
            f"  replica {each.name}: {each.launch.url}, process {each.server.pid} on processors "
            f"{', '.join(map(str, sorted(each.cpus)))}"
            for each in fleet._replicas
        ]
        children = set(psutil.Process().children()) - before
        assert len(children) == 3
        fleet.drain()
        assert fleet.launch.state == "stopping" and len(program.asked()) == 2
    finally:
        fleet.stop()
    assert not any(each.is_running() for each in children) and running_launches() == []
    assert list((folder / "temporary").iterdir()) == [] == list((folder / "launches").iterdir())
    fleet.stop()


def test_a_folder_with_a_long_path_is_told_before_a_server_is_started(program, folder, monkeypatch):
    long = folder / ("n" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    fleet = Fleet(folder / "models", 1, ports=FREE_PORTS, say=lambda line: None)
    with pytest.raises(WorkspaceError, match="is too long for a Unix socket"):
        fleet.start()
    fleet.stop()
    assert program.starts() == [] and list(long.iterdir()) == []


def test_a_port_of_metrics_that_is_taken_is_told_and_nothing_is_left(program, folder):
    other = Fleet(folder / "models", 1, ports=FREE_PORTS, say=lambda line: None)
    other.start()
    fleet = Fleet(folder / "models", 1, ports=other._ports, say=lambda line: None)
    try:
        with pytest.raises(PortInUse, match="`metrics_port"):
            fleet.start()
    finally:
        fleet.stop()
        other.stop()
    assert list((folder / "temporary").iterdir()) == [] == list((folder / "launches").iterdir())
