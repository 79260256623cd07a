"""How a version is judged on one server of a fleet: who holds which lock, and who waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from seresnext101_triton.client import launches
from seresnext101_triton.client.launches import Launch, is_locked
from seresnext101_triton.server.errors import ServerError
from seresnext101_triton.server.fleet import rotation
from seresnext101_triton.server.fleet.rotation import (
    Canary,
    aside,
    canary_of,
    judge_of,
    on_trial,
    rolling,
)
from tests.scripted import scripted
from tests.waiting import until

GATEWAY, ALONE = 7, 8  # process ids


@pytest.fixture
def found(tmp_path, monkeypatch) -> Iterator[dict[str, Launch]]:
    """The launches of a gateway, of its two servers, and of a server without one."""
    monkeypatch.setenv(launches.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(rotation, "_POLL_S", 0.01)
    of = {
        "gateway": {"pid": GATEWAY, "replicas": 2},
        "first": {"pid": GATEWAY},
        "second": {"pid": GATEWAY},
        "alone": {"pid": ALONE},
    }
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(scripted(tmp_path, lambda _: (500, b""), **facts)).launch
            for name, facts in of.items()
        }


def lock_of(launch: Launch) -> Path:
    return launch.file.with_suffix(".aside")


def test_a_server_without_a_gateway_is_judged_where_it_is(found):
    with aside(found["alone"]):
        assert judge_of(found["alone"]) == ""
        assert not any(is_locked(lock_of(each)) for each in found.values())


def test_a_server_is_judged_when_its_fleet_says_that_it_is_aside(found):
    first, judges = found["first"], []

    def follow() -> None:
        assert until(lambda: bool(judge_of(first)))
        judges.append(judge_of(first))
        first.file.write_text(replace(first, aside="somebody else").to_json())
        first.file.write_text(replace(first, aside=judges[0]).to_json())
        assert until(lambda: judge_of(first) == "")
        assert not is_over.wait(0.05)  # the server is not in the rotation again
        first.file.write_text(first.to_json())

    is_over = threading.Event()
    lock_of(first).write_text("a longer name than all that are written here " * 9)
    fleet = threading.Thread(target=follow)
    fleet.start()
    with aside(first):
        assert judges == [judge_of(first)] and len(judges[0]) == 16
        assert judge_of(found["second"]) == ""
    is_over.set()
    fleet.join()
    assert judge_of(first) == ""


def test_a_canary_is_on_trial_until_the_fleet_has_gone_back(found):
    first, canary = found["first"], Canary("m", 4, [3], 10)

    def follow() -> None:
        assert until(lambda: canary_of(first) == canary)
        first.file.write_text(replace(first, canary=canary.name).to_json())
        assert until(lambda: canary_of(first) is None)
        assert not is_over.wait(0.05)
        first.file.write_text(first.to_json())

    is_over = threading.Event()
    fleet = threading.Thread(target=follow)
    fleet.start()
    with pytest.raises(KeyError), on_trial(first, canary):
        assert canary_of(found["second"]) is None and judge_of(first) == ""
        raise KeyError
    is_over.set()
    fleet.join()


def test_a_fleet_that_does_not_follow_is_told(found, monkeypatch):
    monkeypatch.setattr(rotation, "_WITHIN_S", 0.05)
    message = f"launcher of the server at {found['first'].url} does not change what its"
    with pytest.raises(ServerError, match=message), aside(found["first"]):
        pass
    assert judge_of(found["first"]) == ""


def test_a_fleet_that_does_not_take_a_server_back_is_not_waited_for_for_ever(found, monkeypatch):
    first = found["first"]

    def follow() -> None:
        assert until(lambda: bool(judge_of(first)))
        first.file.write_text(replace(first, aside=judge_of(first)).to_json())

    fleet = threading.Thread(target=follow)
    fleet.start()
    with aside(first):
        monkeypatch.setattr(rotation, "_WITHIN_S", 0.05)
    fleet.join()
    assert judge_of(first) == ""


def test_a_server_that_has_ended_is_told(found):
    lock_of(found["first"]).unlink()
    with pytest.raises(ServerError, match=f"the server at {found['first'].url} has ended"):
        with aside(found["first"]):
            pass


def test_servers_of_one_fleet_are_moved_by_one_at_a_time(found):
    """Its gateway's lock stands for the fleet, and a server without a gateway has its own."""
    with rolling([found["first"], found["second"], found["alone"]]):
        locked = [name for name, launch in found.items() if is_locked(lock_of(launch))]
        assert locked == ["gateway", "alone"]
        done = threading.Event()

        def move() -> None:
            with rolling([found["second"]]):
                done.set()

        other = threading.Thread(target=move)
        other.start()
        assert not done.wait(0.1)
    other.join()
    assert done.is_set() and not any(is_locked(lock_of(each)) for each in found.values())
    lock_of(found["alone"]).unlink()  # it has just ended
    with rolling([found["alone"], found["first"]]):
        assert is_locked(lock_of(found["gateway"]))
