"""What is asked of a server, and what its answers mean."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from seresnext101_triton.client import launches
from seresnext101_triton.client.served import ModelState
from seresnext101_triton.server import control as module
from seresnext101_triton.server.control import Control, running
from seresnext101_triton.server.errors import LoadError, ServerError
from tests.scripted import Scripted, scripted

Answering = Callable[..., AbstractContextManager[Scripted]]
INDEX = "POST /v2/repository/index"


@pytest.fixture
def answering(tmp_path: Path, monkeypatch) -> Answering:
    """A function that starts a server of the repository `models` in a folder of its own."""
    monkeypatch.setenv(launches.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(module, "_POLL_S", 0.01)
    (tmp_path / "models").mkdir()
    return partial(scripted, tmp_path)


def model(name: str, version: str, state: str = "READY", reason: str = "") -> dict[str, str]:
    return {"name": name, "version": version, "state": state, "reason": reason}


def test_the_servers_of_a_repository(answering, tmp_path):
    """Not those of another one, and not the gateway of a fleet."""
    (tmp_path / "link").symlink_to("models")
    with (
        answering(lambda _: (200, {})) as first,
        answering(lambda _: (200, {}), repository=str(tmp_path / "other")),
        answering(lambda _: (200, {}), replicas=2),
    ):
        assert running(tmp_path / "link") == [first.launch]
    assert running(tmp_path / "models") == []


@pytest.mark.parametrize(("status", "answer"), [(200, True), (400, False), (503, False)])
def test_whether_a_server_is_live_and_ready(answering, status, answer):
    with answering(lambda _: (status, b"")) as server:
        control = Control(server.launch)
        assert (control.is_live(), control.is_ready()) == (answer, answer)
    assert server.asked == ["GET /v2/health/live", "GET /v2/health/ready"]
    assert server.bodies == [b"", b""] and server.locked == [False, False]
    assert control.is_live() is False
    place = f"127.0.0.1:{server.launch.http}"
    with pytest.raises(ServerError, match=f"the server at {place} does not answer: .*refused"):
        control.is_ready()


def test_models_are_listed_by_name_and_version(answering):
    states = [model("b", "1"), model("a", "10"), model("a", "9", "UNAVAILABLE", "why"), {}]
    with answering(lambda _: (200, states)) as server:
        found = Control(server.launch).index()
        assert found == [
            ModelState("", "", "", ""),
            ModelState("a", "9", "UNAVAILABLE", "why"),
            ModelState("a", "10", "READY", ""),
            ModelState("b", "1", "READY", ""),
        ]
        assert Control(server.launch).ready_versions("a") == [10]
        states.append(model("a", "2"))
        assert Control(server.launch).ready_versions("a") == [2, 10]
        assert Control(server.launch).ready_versions("c") == []
    assert set(server.asked) == {INDEX} and set(server.bodies) == {b"{}"}


@pytest.mark.parametrize(
    ("status", "document", "said"),
    [
        (403, {"error": "it is restricted"}, "it is restricted"),
        (403, [], r"\[\]"),
        (200, {"error": "odd"}, "odd"),
        (200, {"others": 1}, "{'others': 1}"),
        (200, b"<html>", "None"),
    ],
)
def test_what_is_no_list_of_models(answering, status, document, said):
    with answering(lambda _: (status, document)) as server:
        with pytest.raises(
            ServerError, match=f"^127.*{server.server_port} does not list.*: {said}$"
        ):
            Control(server.launch).index()


@pytest.mark.parametrize(
    ("groups", "count"),
    [
        ([], 0),
        ([{"count": 2}, {"count": 3, "gpus": []}], 5),
        ([{"count": 2, "gpus": [0]}, {"count": 3, "gpus": [0, 1]}], 8),
    ],
)
def test_instances_on_several_gpus_are_as_many_on_each(answering, groups, count):
    with answering(lambda _: (200, {"instance_group": groups})) as server:
        assert Control(server.launch).instances("a/b", "7") == count
    assert server.asked == ["GET /v2/models/a%2Fb/versions/7/config"]


@pytest.mark.parametrize(("status", "document"), [(400, {"error": "unknown"}), (200, ["unknown"])])
def test_the_config_of_a_version_that_is_not_loaded(answering, status, document):
    with answering(lambda _: (status, document)) as server:
        with pytest.raises(ServerError, match="does not tell a config: .*unknown"):
            Control(server.launch).instances("a", "1")


def test_one_process_at_a_time_changes_models(answering):
    with answering(lambda _: (200, b"")) as server:
        control = Control(server.launch)
        control.load("a/b")
        control.unload("b")
        control.reload("c")
        assert server.asked == [
            f"POST /v2/repository/models/{change}"
            for change in ("a%2Fb/load", "b/unload", "c/unload", "c/load")
        ]
        assert server.locked == [True] * 4 and set(server.bodies) == {b"{}"}
        assert not launches.is_locked(server.launch.file.with_suffix(".control"))


@pytest.mark.parametrize("change", ["load", "unload"])
def test_a_change_that_is_refused(answering, change):
    with answering(lambda _: (400, {"error": "no such file"})) as server:
        with pytest.raises(LoadError, match=f"^model 'm' cannot be {change}ed: no such file$"):
            getattr(Control(server.launch), change)("m")


def test_a_reload_that_fails_says_so(answering):
    def answer(asked: str) -> tuple[int, object]:
        return (400, {"error": "broken"}) if asked.endswith("/load") else (200, b"")

    with (
        answering(answer) as server,
        pytest.raises(LoadError, match="'m' cannot be loaded: broken"),
    ):
        Control(server.launch).reload("m")
    assert len(server.asked) == 2


def test_a_launch_that_has_ended_is_not_changed(answering):
    with answering(lambda _: (200, b"")) as server:
        server.launch.file.with_suffix(".control").unlink()
        with pytest.raises(ServerError, match=f"at 127.0.0.1:{server.launch.http} has ended"):
            Control(server.launch).load("m")
        assert server.asked == []


def test_models_are_unloaded_when_none_answers_any_more(answering):
    states = iter(["READY", "LOADING", "UNLOADING", "UNAVAILABLE"])

    def answer(_: str) -> tuple[int, object]:
        return 200, [model("a", "1", next(states)), model("b", "1", "READY")]

    with answering(answer) as server:
        control = Control(server.launch)
        assert control.wait_until_unloaded(["a", "c"], 60)
        assert len(server.asked) == 4
        server.answer = lambda _: (200, [model("a", "1", "UNLOADING")])
        assert not control.wait_until_unloaded(["a"], 0.05)
        assert control.wait_until_unloaded(["b"], 0.05)


def test_versions_that_must_not_answer_are_waited_for(answering, monkeypatch):
    """Triton may have loaded a version before it has unloaded a newer one."""
    ready = [[model("m", "1"), model("m", "2")], [model("m", "1"), model("m", "2", "UNLOADING")]]
    answers = iter(ready)

    def answer(asked: str) -> tuple[int, object]:
        return 200, b"" if asked.endswith("/load") else next(answers)

    with answering(answer) as server:
        Control(server.launch).go_back("m", {2, 3})
        assert server.asked == ["POST /v2/repository/models/m/load", INDEX, INDEX]
        answers = iter(ready[:1])
        monkeypatch.setattr(module, "LOAD_TIMEOUT_S", 0.0)
        Control(server.launch).go_back("m", {2})  # but not for ever


def test_an_address_of_ipv6_is_asked_without_its_brackets(answering):
    with answering(lambda _: (200, b"")) as server:
        control = Control(replace(server.launch, address="::1"))
        with pytest.raises(ServerError, match=rf"at \[::1\]:{server.launch.http} does not answer"):
            control.is_ready()


def test_a_server_that_is_silent_is_not_waited_for_for_ever(answering, monkeypatch):
    """An answer may be slow only if a model is loaded."""
    monkeypatch.setattr(module.Control._ask, "__defaults__", (None, 0.2))
    end = threading.Event()

    def answer(asked: str) -> tuple[int, object]:
        end.wait(0.5 if asked.endswith("/load") else 60)
        return 200, b""

    with answering(answer) as server:
        control = Control(server.launch)
        try:
            with pytest.raises(ServerError, match="does not answer: timed out"):
                control.is_ready()
            control.load("m")
            with pytest.raises(ServerError, match="does not answer: timed out"):
                control.load("m", timeout_s=0.1)
        finally:
            end.set()


def test_an_answer_that_is_cut_is_no_answer(answering):
    with answering(lambda _: (200, b"")) as server:
        body = json.dumps([model("a", "1")])
        server.answer = lambda _: (200, body[:-3].encode())
        with pytest.raises(ServerError, match="does not list its models: None"):
            Control(server.launch).index()
