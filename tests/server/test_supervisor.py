"""What the supervisor does about each death. Processes die, and the server's answers are given.

`test_supervision.py` has the same with a real server.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from seresnext101_triton.client import launches
from seresnext101_triton.client.launches import Launch, is_locked
from seresnext101_triton.server import stubs as stubs_module
from seresnext101_triton.server import supervision as module
from seresnext101_triton.server.control import LOAD_TIMEOUT_S, Control
from seresnext101_triton.server.errors import ServerError, WorkspaceError
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.supervision import Backoff, Patience, Supervisor
from tests.scripted import Scripted, scripted
from tests.server.stub_processes import Stubs, has_died
from tests.waiting import until


@dataclass
class Watched:
    """The parts of a server that its supervisor uses, and the answers of its tritonserver.

    Attributes:
        states: The state of each model's version 1.
        instances: The instances of every model.
        broken: Why no model can be loaded; empty if all can.
        code: How tritonserver has ended.
        up: Whether it is up, or why it cannot be.
        is_full: Whether its temporary folder is full.
        is_busy: Whether another process has it load a version.
        done: What it was asked to do.
        said: The lines for a person.
    """

    launch: Launch
    states: dict[str, str] = field(default_factory=lambda: {"m": "READY"})
    instances: int = 1
    broken: str = ""
    code: int | None = None
    up: bool | ServerError = False
    is_full: bool = False
    is_busy: bool = False
    done: list[object] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    pid: int = os.getpid()

    @property
    def control(self) -> Control:
        return Control(self.launch)

    def answer(self, asked: str) -> tuple[int, object]:
        if asked.endswith("/index"):
            models = self.states.items()
            return 200, [{"name": name, "version": "1", "state": state} for name, state in models]
        if asked.endswith("/config"):
            return 200, {"instance_group": [{"count": self.instances}]}
        self.done.append(asked.partition("models/")[2])
        return (400, {"error": self.broken}) if self.broken and "/load" in asked else (200, b"")

    def exit_code(self) -> int | None:
        return self.code

    def log_tail(self) -> str:
        return "the log"

    def publish(self, **facts: Any) -> None:
        self.launch = replace(self.launch, **facts)
        self.done.append(facts)

    def clear(self) -> None:
        self.done.append("clear")
        self.code = None

    def kill(self) -> None:
        self.done.append("kill")

    def start_again(self) -> bool:
        if self.is_full:
            raise WorkspaceError("no space left")
        self.done.append("busy" if self.is_busy else "start")
        return not self.is_busy

    def restore(self, model: str) -> None:
        assert is_locked(self.launch.file.with_suffix(".control"))
        self.done.append(f"{model} restored")

    def is_up(self) -> bool:
        if isinstance(self.up, ServerError):
            raise self.up
        return self.up

    def check_deadline(self, deadline: float) -> None:
        self.done.append(round(deadline - time.monotonic(), -1))

    def supervisor(self, attempts: int = 2) -> Supervisor:
        """A supervisor that knows the stubs there are, and starts again at once."""
        patience = Patience(first_pause_s=0.0, attempts=attempts, stable_s=600)
        supervisor = Supervisor(cast(Server, self), self.said.append, patience)
        supervisor.get_to_know()
        return supervisor

    def settle(self, supervisor: Supervisor) -> None:
        """Look until nothing is being started again."""

        def settled() -> bool:
            supervisor.check()
            return not supervisor.is_recovering

        assert until(settled)


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Scripted]:
    monkeypatch.setenv(launches.FOLDER_VARIABLE, str(tmp_path))
    with scripted(tmp_path, lambda _: (500, b"")) as running:
        yield running


@pytest.fixture
def watched(server) -> Watched:
    found = Watched(server.launch)
    server.answer = found.answer
    return found


@pytest.fixture
def stubs(tmp_path) -> Iterator[Stubs]:
    (tmp_path / "stubs").mkdir()
    started = Stubs(tmp_path / "stubs")
    yield started
    started.close()


def killed(process: subprocess.Popen[str], *, collected: bool = False) -> str:
    process.kill()
    process.wait() if collected else has_died(process)
    fate = "is gone" if collected else "ended with signal SIGKILL"
    return f"model m: its process {process.pid} {fate}"


def test_a_model_is_loaded_again_whose_stub_has_died(stubs, watched):
    process = stubs.start("m")
    supervisor = watched.supervisor()
    supervisor.check()
    assert not supervisor.is_recovering and watched.said == watched.done == []
    for death in (1, 2):
        line = killed(process)
        supervisor.check()
        assert supervisor.is_recovering
        assert watched.said == [f"{line}; it is loaded again"]
        assert watched.launch.model_restarts == {"m": death}
        watched.settle(supervisor)
        assert re.fullmatch(r"model m: ready again after \d{1,2}\.\d s", watched.said[1])
        assert len(watched.said) == 2
        assert watched.done[1:] == ["m restored", "m/unload", "m/load"]
        watched.said.clear()
        watched.done.clear()
        process = stubs.start("m")
        supervisor.check()
    line = killed(process)
    supervisor.check()
    assert watched.said == [f"{line}; it is given up"] and not supervisor.is_recovering


def test_a_model_that_cannot_be_loaded_is_given_up(stubs, watched):
    """The others go on. Without any, there is nothing left to serve."""
    process = stubs.start("m")
    supervisor = watched.supervisor()
    watched.broken, watched.states = "no memory", {"m": "READY", "other": "READY"}
    line = killed(process)
    watched.settle(supervisor)
    why = "model 'm' cannot be loaded: no memory"
    assert watched.said == [
        f"{line}; it is loaded again",
        f"{why}; it is tried again",
        f"{why}; it is given up after 2 attempts",
    ]
    process = stubs.start("m")
    again = watched.supervisor(attempts=1)
    killed(process)
    again.check()
    watched.states = {"m": "UNAVAILABLE", "other": "UNAVAILABLE"}
    with pytest.raises(ServerError, match="no model can be served any more: read the lines above"):
        watched.settle(again)


@pytest.mark.parametrize("state", ["UNAVAILABLE", "UNLOADING", None])
def test_a_model_that_somebody_has_unloaded_stays_away(stubs, watched, state):
    process = stubs.start("m")
    supervisor = watched.supervisor()
    watched.states = {"m": state} if state else {}
    killed(process)
    supervisor.check()
    assert watched.said == watched.done == [] and not supervisor.is_recovering


def test_a_version_with_enough_stubs_is_not_loaded_again(stubs, watched):
    first, second = stubs.start("m"), stubs.start("m")
    supervisor = watched.supervisor()
    killed(first)
    supervisor.check()
    assert watched.said == []
    watched.instances = 2
    line = killed(second)
    supervisor.check()
    assert watched.said == [f"{line}; it is loaded again"]
    watched.settle(supervisor)


def test_a_stub_that_is_only_gone_must_be_missing_for_a_moment(stubs, watched, monkeypatch):
    monkeypatch.setattr(module, "_MISSED_AFTER_S", 600.0)
    process = stubs.start("m")
    supervisor = watched.supervisor()
    line = killed(process, collected=True)
    for _ in range(3):
        supervisor.check()
    assert watched.said == []
    monkeypatch.setattr(module, "_MISSED_AFTER_S", 0.0)
    supervisor.check()
    assert watched.said == [f"{line}; it is loaded again"]
    watched.settle(supervisor)


def test_a_server_that_waits_for_a_dead_stub_is_started_again(stubs, watched, monkeypatch):
    """Triton hangs while it loads a model whose stub has died."""
    monkeypatch.setattr(stubs_module, "_HANGS_AFTER_S", 600.0)
    process = stubs.start("m")
    supervisor = watched.supervisor()
    watched.states = {"m": "LOADING"}
    line = killed(process)
    for _ in range(3):
        supervisor.check()
    assert watched.said == watched.done == []
    monkeypatch.setattr(stubs_module, "_HANGS_AFTER_S", 0.0)
    supervisor.check()
    assert watched.done == ["kill", "clear", {"state": "restarting"}]
    assert watched.said == [
        f"{line} while it was loaded, and tritonserver waits for it for ever; it is started again"
    ]


def test_a_server_that_does_not_answer_is_asked_to_load_the_model(stubs, watched, server):
    """It may be overloaded, or have died as well, which the next look sees."""
    process = stubs.start("m")
    supervisor = watched.supervisor(attempts=1)
    server.answer = lambda _: (503, b"")
    line = killed(process)
    watched.settle(supervisor)
    assert watched.said == [
        f"{line}; it is loaded again",
        "model 'm' cannot be unloaded: None; it is given up after 1 attempts",
    ]


def test_a_server_that_has_died_is_started_again(watched):
    supervisor = watched.supervisor()
    watched.code = -9
    supervisor.check()
    assert watched.said == ["tritonserver ended with signal SIGKILL; it is started again"]
    assert watched.done == ["clear", {"state": "restarting"}] and supervisor.is_recovering
    supervisor.check()
    assert watched.done[2:] == ["start", {"server_restarts": 1}] and supervisor.is_recovering
    supervisor.check()
    assert watched.done[4:] == [LOAD_TIMEOUT_S]
    watched.up = True
    supervisor.check()
    assert re.fullmatch(r"tritonserver: ready again after \d{1,2}\.\d s", watched.said[1])
    assert not supervisor.is_recovering and len(watched.done) == 5
    supervisor.check()
    assert len(watched.said) == 2


def test_a_server_is_started_again_when_nothing_is_loaded_and_the_disk_has_room(watched):
    supervisor = watched.supervisor()
    watched.code, watched.is_busy = -9, True
    for _ in range(3):
        supervisor.check()
    assert watched.done[2:] == ["busy", "busy"] and supervisor.is_recovering
    watched.is_full = True
    supervisor.check()
    assert watched.said[1:] == ["no space left; it is started again"]
    watched.is_full = watched.is_busy = False
    watched.up = True
    watched.settle(supervisor)
    assert watched.launch.server_restarts == 1


def test_a_server_that_cannot_start_is_given_up(watched):
    supervisor = watched.supervisor()
    watched.code, watched.up = 1, ServerError("it cannot bind its port:\nand the log")
    with pytest.raises(ServerError) as error:
        watched.settle(supervisor)
    assert (
        str(error.value) == "it cannot bind its port, after it was started again 2 times:\nthe log"
    )
    assert watched.said == [
        "tritonserver ended with code 1; it is started again",
        "it cannot bind its port; it is started again",
    ]
    assert watched.launch.server_restarts == 2


# How often something is started again


def test_a_server_that_cannot_live_is_given_up(monkeypatch):
    """Pauses grow up to a limit, and attempts end unless the server lived for a while."""
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    backoff = Backoff(Patience(first_pause_s=1, longest_pause_s=4, attempts=4, stable_s=60))
    pauses = []
    for _ in range(4):
        assert backoff.died()
        start = clock[0]
        while not backoff.is_due():
            clock[0] += 0.25
        pauses.append(clock[0] - start)
        backoff.recovered()
        clock[0] += 10
    assert pauses == [1, 2, 4, 4]
    assert not backoff.died()
    backoff.recovered()
    clock[0] += 60
    assert not backoff.died()
    backoff.recovered()
    clock[0] += 60.5
    assert backoff.died() and backoff.attempts == 1


def test_the_usual_pauses():
    patience = Patience()
    assert (patience.first_pause_s, patience.longest_pause_s) == (0.25, 30.0)
    assert (patience.attempts, patience.stable_s) == (10, 2.0)
    assert Backoff(patience).is_due()


def test_what_answers_between_its_deaths_is_started_again_at_once(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    patience = Patience()
    backoff = Backoff(patience)
    for _ in range(50):
        clock[0] += 3
        assert backoff.died()
        clock[0] += patience.first_pause_s
        assert backoff.is_due()
        backoff.recovered()
