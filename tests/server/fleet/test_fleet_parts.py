"""What a fleet does with its servers and its gateway, none of which is started.

`test_fleet.py` has the same with real ones.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.client.launches import Launch
from seresnext101_triton.client.served import ModelState
from seresnext101_triton.server.arguments import cache_arguments
from seresnext101_triton.server.cores import shares
from seresnext101_triton.server.errors import ServerError, WorkspaceError
from seresnext101_triton.server.fleet import fleet as module
from seresnext101_triton.server.fleet.envoy import Envoy
from seresnext101_triton.server.fleet.fleet import Fleet, _private_folder
from seresnext101_triton.server.fleet.gateway import Endpoint
from seresnext101_triton.server.fleet.replica import Replica
from seresnext101_triton.server.fleet.rotation import Canary
from seresnext101_triton.server.ports import Ports
from seresnext101_triton.server.tracing import Tracing
from tests.launches import LAUNCH


@dataclass
class Kept:
    """One server of a fleet, as the fleet sees it."""

    name: str
    events: list[object]
    launch: Launch = LAUNCH
    cpus: frozenset[int] = frozenset({3, 1})
    has_started: bool = True
    is_recovering: bool = False
    is_following: bool = False
    live: bool = True
    up: bool = True
    error: ServerError | None = None
    canary: Canary | None = None
    is_going_back: bool = False
    models: list[ModelState] = field(default_factory=list)
    _follower: None = None

    def __post_init__(self) -> None:
        self.launch = replace(self.launch, pid=int(self.name))

    @property
    def server(self) -> Kept:
        return self

    @property
    def pid(self) -> int:
        return 70 + int(self.name)

    @property
    def ports(self) -> Ports:
        number = 10 * (int(self.name) + 1)
        return Ports(number, number + 1, number + 2)

    def publish(self, **facts: Any) -> None:
        self.launch = replace(self.launch, **facts)
        self.events.append((self.name, facts))

    def heed_canary(self) -> None: ...

    def look(self, *, follow: bool = True) -> None:
        self.events.append((self.name, "look", follow))
        if self.error:
            raise self.error

    def is_up(self) -> bool:
        return self.up

    def is_live(self) -> bool:
        return self.live

    def drain(self) -> None:
        self.events.append((self.name, "drain"))

    def stop(self) -> None:
        self.events.append((self.name, "stop"))


@dataclass
class Gateway:
    """The gateway of a fleet, as the fleet sees it."""

    events: list[object]
    restarts: int = 0
    is_recovering: bool = False
    up: bool = True
    is_behind: bool = False
    servers: tuple[Endpoint, ...] = ()

    def look(self) -> None:
        self.events.append("gateway")

    def is_up(self) -> bool:
        return self.up

    def send_to(self, servers: tuple[Endpoint, ...]) -> None:
        if servers != self.servers:
            self.servers = servers
            self.events.append([(each.grpc, each.http, each.is_aside) for each in servers])

    def follows(self) -> bool:
        return not self.is_behind

    def drain(self, timeout_s: float) -> None:
        self.events.append(("gateway drained", timeout_s))

    def stop(self) -> None:
        self.events.append("gateway stopped")


@dataclass
class Parts:
    """A fleet of three, its parts, and what they were asked to do."""

    fleet: Fleet
    servers: list[Kept]
    gateway: Gateway
    events: list[object]
    said: list[str]
    judges: dict[str, str]

    def take(self) -> list[object]:
        """What has happened since the last call."""
        found, self.events[:] = list(self.events), []
        return found


@pytest.fixture
def parts(tmp_path, monkeypatch) -> Parts:
    events: list[object] = []
    said: list[str] = []
    judges: dict[str, str] = {}
    servers = [Kept(str(number), events) for number in range(3)]
    fleet = Fleet(tmp_path, 3, say=said.append)
    fleet.launch = replace(LAUNCH, replicas=3)
    fleet._replicas = cast(list[Replica], [*servers])
    gateway = Gateway(events)
    gateway.servers = fleet._endpoints()
    fleet._envoy = cast(Envoy, gateway)

    def publish(**facts: Any) -> None:
        fleet.launch = replace(fleet.launch, **facts)
        events.append(facts)

    def judge_of(launch: Launch) -> str:
        return judges.get(str(launch.pid), "")

    monkeypatch.setattr(fleet, "_publish", publish)
    monkeypatch.setattr(module, "judge_of", judge_of)
    return Parts(fleet, servers, gateway, events, said, judges)


def looks(follow: Mapping[str, bool]) -> list[object]:
    return [*((name, "look", each) for name, each in follow.items()), "gateway"]


def test_every_server_has_its_cores_and_all_else_is_the_same(tmp_path):
    said: list[str] = []
    noted: list[str] = []
    trace = Tracing("http://c:4318/v1/traces")
    fleet = Fleet(
        tmp_path,
        2,
        say=said.append,
        note=noted.append,
        verbose=True,
        only=["m"],
        follow=True,
        soak_s=3.0,
        allow=["trace"],
        response_cache_mib=7,
        trace=trace,
    )
    servers = [each.server for each in fleet._replicas]
    assert [(each.name, each.cpus) for each in fleet._replicas] == [
        *zip("01", shares(2), strict=True)
    ]
    for number, each in enumerate(servers):
        assert (each.repository, each._verbose, each.only) == (tmp_path, True, ["m"])
        assert each.follow and each.soak_s == 3.0 and each._trace == trace.arguments()
        assert each._key == fleet._key and len(fleet._key) == 32
        assert each._cpus == shares(2)[number] and each._cache == cache_arguments(7)
        assert "trace" not in each._restricted == fleet._restricted
        each._note("a line")
        fleet._replicas[number]._supervisor._say("another")
    assert noted == ["replica 0: a line", "replica 1: a line"]
    assert said == ["replica 0: another", "replica 1: another"]
    assert not any(each.has_started for each in fleet._replicas)
    assert not fleet.is_recovering and fleet.models == []


def test_a_name_is_no_address_of_an_interface(tmp_path):
    with pytest.raises(UsageError, match="`address` must be the address of an interface"):
        Fleet(tmp_path, 1, address="localhost")


def test_one_server_at_a_time_follows_the_repository(parts):
    parts.fleet.look()
    assert parts.take() == looks({"0": True, "1": True, "2": True})
    parts.servers[1].is_following = True
    parts.fleet.look()
    assert parts.take() == looks({"0": False, "1": True, "2": False})
    parts.servers[1].is_following, parts.servers[2].is_recovering = False, True
    parts.fleet.look()
    assert parts.take() == looks({"0": False, "1": False, "2": True})


def test_a_server_that_is_judged_gets_no_requests(parts):
    parts.judges["1"] = "somebody"
    parts.fleet.look()
    rest = [(10, 11, False), (20, 21, True), (30, 31, False)]
    told = ("1", {"aside": "somebody"})
    assert parts.take()[4:] == [rest, told]
    parts.fleet.look()
    assert parts.take()[4:] == []
    parts.judges["2"] = "another"
    parts.gateway.is_behind = True
    parts.fleet.look()
    assert parts.take()[4:] == [[rest[0], rest[1], (30, 31, True)]]  # it is told when that is so
    parts.gateway.is_behind = False
    parts.fleet.look()
    assert parts.take()[4:] == [("2", {"aside": "another"})]
    parts.judges.clear()
    parts.fleet.look()
    back = [(10, 11, False), (20, 21, False), (30, 31, False)]
    assert parts.take()[4:] == [back, ("1", {"aside": ""}), ("2", {"aside": ""})]


def test_the_last_server_that_answers_gets_requests_even_while_it_is_judged(parts):
    """Who judges it is told to go on nevertheless."""
    parts.judges.update({"0": "a", "1": "b", "2": "c"})
    parts.fleet._rotate()
    endpoints, *told = parts.take()
    assert endpoints == [(10, 11, True), (20, 21, True), (30, 31, False)]
    assert told == [("0", {"aside": "a"}), ("1", {"aside": "b"}), ("2", {"aside": "c"})]
    parts.judges.clear()
    parts.fleet._rotate()
    parts.take()
    parts.servers[0].is_recovering = parts.servers[2].is_recovering = True
    parts.judges["1"] = "d"
    parts.fleet._rotate()
    assert parts.take() == [("1", {"aside": "d"})]


def test_a_canary_gets_its_share_of_all_requests(parts):
    """However many others answer; and it gets none while it goes back."""
    _, second, third = parts.servers
    third.canary = Canary("m/a", 4, [3], 10, name="x")
    parts.fleet._rotate()
    parts.fleet._rotate()
    assert parts.take()[1:] == [("2", {"canary": "x"})]

    def seen() -> list[tuple[int, str]]:
        return [(each.weight, each.extra) for each in parts.gateway.servers]

    assert seen() == [(90, ""), (90, ""), (20, "m%2Fa/4")]
    second.is_recovering = True
    parts.fleet._rotate()
    assert seen() == [(90, ""), (90, ""), (10, "m%2Fa/4")]
    second.is_recovering, third.is_going_back = False, True
    parts.fleet._rotate()
    assert parts.gateway.servers[2].is_aside and seen()[2][1] == ""
    third.canary, third.is_going_back = None, False
    parts.take()
    parts.fleet._rotate()
    assert parts.take()[1:] == [("2", {"aside": "", "canary": ""})]
    assert seen() == [(1, "")] * 3


def test_what_was_started_again_is_counted_for_all_servers(parts):
    parts.fleet._publish_restarts()
    assert parts.take() == []
    one, two, _ = parts.servers
    one.launch = replace(LAUNCH, server_restarts=2, model_restarts={"m": 1})
    two.launch = replace(LAUNCH, server_restarts=1, model_restarts={"m": 4, "n": 1})
    parts.gateway.restarts = 5
    counts = {"gateway_restarts": 5, "server_restarts": 3, "model_restarts": {"m": 5, "n": 1}}
    parts.fleet._publish_restarts()
    parts.fleet._publish_restarts()
    assert parts.take() == [counts]


def test_a_server_that_has_died_too_often_is_given_up(parts):
    parts.servers[1].error = ServerError("it has died")
    parts.fleet.look()
    assert parts.said == ["replica 1: it has died; it is given up, and the others go on"]
    assert [each.name for each in parts.fleet._replicas] == ["0", "2"]
    assert ("1", "stop") in parts.take()
    for each in (parts.servers[0], parts.servers[2]):
        each.error = ServerError("it has died too")
    with pytest.raises(ServerError, match="it has died too"):
        parts.fleet.look()
    assert [each.name for each in parts.fleet._replicas] == ["2"]


def test_a_fleet_is_up_when_all_of_it_is(parts):
    first, second, third = parts.servers
    first.models = [ModelState("m", "1", "READY", "")]
    second.has_started, second.up = False, False
    assert not parts.fleet.is_up()
    assert parts.take() == [("0", "look", True), ("2", "look", True)]
    second.up, third.is_recovering = True, True
    assert not parts.fleet.is_up() and second.has_started
    third.is_recovering, parts.gateway.up = False, False
    assert not parts.fleet.is_up() and parts.fleet.models == [] and parts.said == []
    parts.gateway.up = True
    parts.take()
    assert parts.fleet.is_up()
    assert parts.fleet.models == first.models
    assert parts.said == [
        f"  replica {n}: 127.0.0.1:1, process 7{n} on processors 1, 3" for n in range(3)
    ]
    assert parts.take()[3:] == [{"state": "ready"}]


def test_whether_a_fleet_is_live_and_recovering(parts):
    assert parts.fleet.is_live() and not parts.fleet.is_recovering
    for each in parts.servers[1:]:
        each.live = False
    assert parts.fleet.is_live()
    parts.servers[0].live = False
    assert not parts.fleet.is_live()
    parts.servers[0].live, parts.gateway.up = True, False
    assert not parts.fleet.is_live()
    parts.servers[2].is_recovering = True
    assert parts.fleet.is_recovering
    parts.servers[2].is_recovering, parts.gateway.is_recovering = False, True
    assert parts.fleet.is_recovering


def test_the_gateway_takes_no_more_requests_before_its_servers_end(parts):
    parts.fleet.drain()
    state, gateway, *servers = parts.take()
    assert (state, gateway) == ({"state": "stopping"}, ("gateway drained", 10.0))
    assert {*servers} == {(str(number), "drain") for number in range(3)} and len(servers) == 3


def test_the_gateway_ends_before_its_servers(parts, tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    parts.fleet._folder = private
    parts.fleet.stop()
    first, *others = parts.take()
    assert first == "gateway stopped" and len(others) == 3
    assert {*others} == {(str(number), "stop") for number in range(3)}
    assert not private.exists() and not parts.fleet.is_recovering
    parts.fleet.stop()
    assert len(parts.take()) == 3


def test_the_folder_of_a_launch_is_its_users(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = _private_folder("name")
    assert folder == tmp_path / "tritonserver-name"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and folder.stat().st_uid == os.getuid()
    with pytest.raises(WorkspaceError, match=f"{tmp_path} cannot be written .File exists"):
        _private_folder("name")
    assert Path(tempfile.gettempdir()) == tmp_path
