"""One run of the command, from its start to its end, with a server that only notes what is asked.

`test_launcher.py` has the same with a real one.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from seresnext101_triton.client.launches import Launch
from seresnext101_triton.client.served import ModelState
from seresnext101_triton.server import session as module
from seresnext101_triton.server.control import LOAD_TIMEOUT_S
from seresnext101_triton.server.errors import ServerError
from seresnext101_triton.server.session import Session, announce
from seresnext101_triton.server.signals import EndSignals
from tests.launches import LAUNCH

OURS = replace(LAUNCH, grpc=11, http=12, metrics=13, file=Path("/launch.json"))


@dataclass
class Noted:
    """A server that notes what it is asked.

    Attributes:
        waits: How often it is asked whether it is up before it is.
        on_look: Called when it is looked at.
        done: What it was asked to do.
    """

    waits: int = 2
    on_look: Callable[[], None] = lambda: None
    done: list[str] = field(default_factory=list)
    launch: Launch = OURS
    is_recovering: bool = False
    live: bool = True
    models: list[ModelState] = field(
        default_factory=lambda: [ModelState("m", "7", "READY", ""), ModelState("n", "1", "", "")]
    )

    def start(self) -> None:
        self.done.append("start")

    def is_up(self) -> bool:
        self.waits -= 1
        return self.waits < 0

    def check_deadline(self, deadline: float) -> None:
        assert 300 < deadline - time.monotonic() <= LOAD_TIMEOUT_S == 600
        self.done.append("deadline")

    def look(self) -> None:
        self.done.append("look")
        self.on_look()

    def is_live(self) -> bool:
        return self.live

    def drain(self) -> None:
        self.done.append("drain")

    def stop(self) -> None:
        self.done.append("stop")


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.02)


@pytest.fixture
def told(tmp_path, monkeypatch) -> Iterator[Callable[[], list[str]]]:
    """A function that returns what the service manager was told, with its watchdog on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "1")

        def all_of_it() -> list[str]:
            found = []
            while True:
                try:
                    found.append(manager.recv(1000).decode())
                except BlockingIOError:
                    return found

        yield all_of_it


def run(
    server: Noted, command: list[str], signals: EndSignals | None = None
) -> tuple[int, list[str]]:
    said: list[str] = []
    code = Session(server, signals or EndSignals(), said.append).run(command)
    return code, said


ANNOUNCED = [
    "  m version 7: ready",
    "  n version 1: ready",
    "gRPC 127.0.0.1:11 · HTTP 127.0.0.1:12 · metrics http://127.0.0.1:13/metrics",
]


def test_it_serves_until_a_signal(told):
    signals, server = EndSignals(), Noted()
    server.on_look = lambda: signals.note(signal.SIGTERM, None)
    code, said = run(server, [], signals)
    assert code == 0
    assert said == [*ANNOUNCED, "SIGTERM: requests in flight are answered", "stopped"]
    assert server.done == ["start", "deadline", "deadline", "look", "drain", "stop"]
    assert told() == ["READY=1\nSTATUS=gRPC 127.0.0.1:11", "WATCHDOG=1", "STOPPING=1"]


@pytest.mark.parametrize(
    ("live", "recovering", "signs"), [(False, False, 0), (False, True, 1), (True, True, 1)]
)
def test_a_server_that_does_not_answer_gives_no_sign_of_life(told, live, recovering, signs):
    signals = EndSignals()
    server = Noted(0, live=live, is_recovering=recovering)
    server.on_look = lambda: signals.note(signal.SIGTERM, None)
    run(server, [], signals)
    assert told().count("WATCHDOG=1") == signs


def test_a_signal_ends_it_while_models_are_loaded(told):
    signals, server = EndSignals(), Noted(99)
    signals.note(signal.SIGINT, None)
    assert run(server, ["false"], signals) == (0, ["stopped"])
    assert server.done == ["start", "stop"] and told() == ["STOPPING=1"]


def test_it_ends_if_the_server_cannot_be_kept_running(told):
    def die() -> None:
        raise ServerError("it has died too often")

    server = Noted(0, on_look=die)
    with pytest.raises(ServerError, match="too often"):
        run(server, [])
    assert server.done == ["start", "look", "stop"] and told()[-1] == "STOPPING=1"


def test_a_command_gets_the_server_and_its_exit_code_is_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    script = f'echo "$TRITON_URL $TRITON_LAUNCH_FILE $PATH" > {tmp_path}/out; sleep 0.2; exit 7'
    server = Noted(0)
    code, said = run(server, ["sh", "-c", script])
    assert (code, said) == (7, ANNOUNCED)
    assert server.done[0] == "start" and server.done[-1] == "stop" and "look" in server.done
    assert (tmp_path / "out").read_text().split() == [
        *("127.0.0.1:11", "/launch.json", f"/bin:/usr/bin:{Path(sys.executable).parent}")
    ]


def test_a_command_that_a_signal_has_ended(tmp_path):
    assert run(Noted(0), ["sh", "-c", "kill -KILL $$"])[0] == 128 + signal.SIGKILL


def test_a_command_that_cannot_be_started():
    server = Noted(0)
    with pytest.raises(ServerError, match="^cannot run /none: No such file or directory$"):
        run(server, ["/none"])
    assert server.done == ["start", "stop"]


@pytest.mark.parametrize("trap", ["echo ended > out; exit 3", ""])
def test_a_signal_goes_to_the_command(tmp_path, monkeypatch, trap):
    """One that does not end by it is killed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_COMMAND_EXIT_S", 60.0 if trap else 0.1)
    signals, server = EndSignals(), Noted(0)

    def arrive() -> None:
        if (tmp_path / "up").exists():
            signals.note(signal.SIGTERM, None)

    server.on_look = arrive
    script = f"trap '{trap}' TERM; touch up; while true; do sleep 0.02; done"
    code, _ = run(server, ["sh", "-c", script], signals)
    assert code == (3 if trap else 128 + signal.SIGKILL)
    assert (tmp_path / "out").exists() == bool(trap)


def test_no_command_outlives_a_server_that_has_died(tmp_path):
    server = Noted(0)

    def die() -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"):
            raise ServerError("it has died too often")

    server.on_look = die
    with pytest.raises(ServerError, match="too often"):
        run(server, ["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 600"])
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_where_a_server_of_all_interfaces_is_reached():
    said: list[str] = []
    announce(Noted(launch=replace(OURS, address="::", tls=True)), said.append)
    assert said[-1] == "gRPC grpcs://[::1]:11 · HTTP [::1]:12 · metrics http://[::1]:13/metrics"
