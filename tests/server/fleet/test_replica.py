"""How one server of a fleet goes to a canary and back, with a server whose answers are given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import pytest

from seresnext101_triton.client import launches
from seresnext101_triton.client.launches import Launch
from seresnext101_triton.server.control import Control
from seresnext101_triton.server.fleet import replica as module
from seresnext101_triton.server.fleet.replica import Replica
from seresnext101_triton.server.fleet.rotation import _CANARY, Canary, _asked
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.models import versions_to_serve
from seresnext101_triton.server.view import View
from tests.scripted import Scripted, scripted
from tests.waiting import until


@dataclass
class Served:
    """The parts of a server that a replica uses, and a tritonserver that loads what it sees."""

    repository: Path
    launch: Launch
    view: View
    follow: bool = False
    loaded: list[int] = field(default_factory=lambda: [1, 2])
    asked: list[object] = field(default_factory=list)
    broken: int = 0
    is_stopped: bool = False

    @property
    def control(self) -> Control:
        return Control(self.launch)

    def answer(self, asked: str) -> tuple[int, object]:
        if asked.endswith("/index"):
            return 200, [
                {"name": "m", "version": str(version), "state": "READY"} for version in self.loaded
            ]
        entry = self.launch.models_folder / "m"
        self.asked.append((asked.rpartition("/")[2], versions_to_serve(entry)))
        if self.broken:
            self.broken -= 1
            return 500, {"error": "odd"}
        self.loaded = versions_to_serve(entry)
        return 200, b""

    def stop(self) -> None:
        self.is_stopped = True


@pytest.fixture
def running(tmp_path, monkeypatch) -> Iterator[Scripted]:
    monkeypatch.setenv(launches.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(module, "_AGAIN_S", 0.01)
    with scripted(tmp_path, lambda _: (500, b"")) as server:
        yield server


@pytest.fixture
def served(running, tmp_path) -> Served:
    """A model with versions 1 and 2, both of which are served, and 2 is the newest."""
    folder = tmp_path / "models" / "m"
    for version in "12":
        (folder / version).mkdir(parents=True)
    (folder / "config.pbtxt").write_text("version_policy { specific { versions: 1 } }")
    found = Served(tmp_path / "models", running.launch, View.of(running.launch))
    running.answer = found.answer
    found.view.pin(folder, [1, 2])
    return found


def replica_of(served: Served, said: list[str]) -> Replica:
    return Replica("3", cast(Server, served), frozenset({5}), said.append)


CANARY = Canary("m", 2, [1], 10, name="asker")


def test_a_replica_goes_back_when_its_canary_has_ended(served):
    said: list[str] = []
    replica = replica_of(served, said)
    assert (replica.name, replica.cpus) == ("3", frozenset({5})) and not replica.has_started
    replica.heed_canary()
    assert replica.canary is None and not replica.is_going_back
    with _asked(served.launch, _CANARY, json.dumps(asdict(CANARY))):
        for _ in range(2):
            replica.heed_canary()
            assert replica.canary == CANARY and not replica.is_going_back
    replica.heed_canary()
    assert replica.canary == CANARY and replica.is_going_back
    assert replica._return and replica._return.daemon  # the fleet may end meanwhile
    assert until(lambda: bool(replica.heed_canary() or not replica.is_going_back))
    assert replica.canary is None and served.loaded == [1] and said == []
    assert served.asked == [("load", [1])]
    entry = served.launch.models_folder / "m"
    assert entry.readlink() == served.repository / "m"  # from now on, as its folder is


def test_a_server_that_does_not_go_back_is_told_of_once_and_tried_again(served):
    said: list[str] = []
    served.broken = 3
    replica = replica_of(served, said)
    replica.canary = CANARY
    replica.heed_canary()
    assert until(lambda: bool(replica.heed_canary() or not replica.is_going_back))
    assert said == ["model m: model 'm' cannot be loaded: odd; it is tried again"]
    assert served.asked == [("load", [1])] * 4 and served.loaded == [1]


def test_a_replica_that_ends_does_not_go_back(served):
    served.broken = 10**9
    replica = replica_of(served, [])
    replica.canary = CANARY
    replica.heed_canary()
    assert until(lambda: bool(served.asked))
    thread = replica._return
    replica.stop()
    assert thread and until(lambda: not thread.is_alive()) and served.is_stopped
