"""What the launcher tells a service manager, and the unit file."""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from seresnext101_triton.__main__ import COMMANDS
from seresnext101_triton.server.cli import _parser
from seresnext101_triton.server.notify import Notifier
from tests.conftest import onnx_convolution, write_model
from tests.server.launching import DEADLINE_S, launcher

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "seresnext101-triton.service"


@pytest.fixture
def manager(tmp_path):
    """The socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(DEADLINE_S)
        yield listening


def test_the_manager_learns_of_readiness_life_and_end(tmp_path, manager):
    config = 'platform: "onnxruntime_onnx" instance_group { kind: KIND_CPU count: 1 }'
    repository = tmp_path / "models"
    write_model(repository, "convolution", config, {"model.onnx": onnx_convolution((3, 4, 4))})
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "1000000"}
    with launcher(repository, environment=environment) as started:
        first = manager.recv(1000).decode().splitlines()
        assert first == ["READY=1", f"STATUS=gRPC {started.launch().url}"]
        assert [manager.recv(1000) for _ in range(2)] == [b"WATCHDOG=1"] * 2
        assert started.end() == 0
    rest = [manager.recv(1000)]
    while rest[-1] == b"WATCHDOG=1":
        rest.append(manager.recv(1000))
    assert rest[-1] == b"STOPPING=1"


def test_without_a_manager_nothing_is_sent(monkeypatch, manager):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().send(READY=1)
    assert not Notifier().is_sign_of_life_due()
    monkeypatch.setenv("NOTIFY_SOCKET", "/nobody/listens")
    Notifier().send(READY=1)
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")  # another process is watched
    notifier = Notifier()
    assert not notifier.is_sign_of_life_due() and "NOTIFY_SOCKET" not in os.environ
    notifier.send(STOPPING=1)
    assert manager.recv(1000) == b"STOPPING=1"


def test_the_unit_file_starts_what_exists():
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text())
    service = unit["Service"]
    program, package, *arguments = shlex.split(service["ExecStart"])
    assert Path(program).name == "seresnext101" and COMMANDS[package][0] == "server"
    assert Path(_parser().parse_args(arguments).repository).is_absolute()
    assert service["Type"] == "notify" and service["OOMPolicy"] == "continue"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd checks its own files")
def test_systemd_takes_the_unit_file(tmp_path):
    text = UNIT.read_text()
    program = text.partition("ExecStart=")[2].partition(" ")[0]
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(program, shutil.which("true") or "").replace("User=triton\n", ""))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True
    )
    ours = [line for line in result.stderr.splitlines() if UNIT.name in line]
    assert ours == [], result.stderr
