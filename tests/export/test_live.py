"""How servers are told to follow a promotion, and what they say that they serve."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

import pytest

from seresnext101_triton.client import launches
from seresnext101_triton.export import live
from seresnext101_triton.export.live import follow, versions_in_use
from seresnext101_triton.server.errors import LoadError
from tests.scripted import Scripted, scripted

Answering = Callable[..., AbstractContextManager[Scripted]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def answering(root, monkeypatch) -> Answering:
    monkeypatch.setenv(launches.FOLDER_VARIABLE, str(root.parent))
    monkeypatch.setattr(live, "_POLL_S", 0.01)
    return partial(scripted, root.parent)


def of(*states: tuple[str, str, str], reason: str = "") -> Callable[[str], tuple[int, object]]:
    """The answer of a server with models of these names, versions and states."""
    names = ("name", "version", "state")
    models = [{**dict(zip(names, each, strict=True)), "reason": reason} for each in states]
    return lambda asked: (200, models if asked.endswith("/index") else b"")


def test_versions_in_use_are_those_of_all_servers(answering, root):
    first = of(
        ("m", "1", "READY"),
        ("m", "2", "UNLOADING"),
        ("m", "3", "UNAVAILABLE"),
        ("m@4", "4", "LOADING"),
        ("m", "", "LOADING"),
        ("other", "7", "READY"),
    )
    second = of(("m", "1", "LOADING"), ("m", "2", "READY"), ("m@5", "1", "READY"))
    assert versions_in_use(root, "m") == {}
    with answering(first), answering(second):
        expected = {0: "LOADING", 1: "READY", 2: "READY", 4: "LOADING"}
        assert versions_in_use(root, "m") == expected
        assert versions_in_use(root, "nobody") == {}


def test_servers_that_serve_the_model_load_it(answering, root):
    with (
        answering(of(("m", "2", "READY"), ("m", "3", "READY"), ("m", "1", "UNLOADING"))) as one,
        answering(of(("other", "2", "READY"))) as other,
    ):
        assert follow(root, "m", [3, 2]) == [one.launch.url]
    assert (one.launch.models_folder / "m").readlink() == root / "m"  # what is loaded now
    index = "POST /v2/repository/index"
    assert one.asked == [index, "POST /v2/repository/models/m/load", index]
    assert other.asked == [index]


def test_a_server_that_does_not_follow_is_told_with_its_reasons(answering, root, monkeypatch):
    monkeypatch.setattr(live, "_FOLLOWS_WITHIN_S", 0.1)
    states = ("m", "1", "READY"), ("m", "2", "UNAVAILABLE"), ("m", "5", "UNAVAILABLE")
    with answering(of(*states, reason="no memory")) as server:
        message = r"^model 'm' did not become version 2 within 0 s: no memory$"
        with pytest.raises(LoadError, match=message):
            follow(root, "m", [2])
        server.answer = of(*states)
        with pytest.raises(LoadError, match="within 0 s: the server gives no reason$"):
            follow(root, "m", [2])
        # Versions that should be gone are waited for too.
        server.answer = of(("m", "1", "READY"), ("m", "2", "READY"))
        with pytest.raises(LoadError, match="did not become version 2"):
            follow(root, "m", [2])


def test_each_server_is_judged_before_the_next_one_loads(answering, root, monkeypatch):
    """The version is judged with the server aside, and soaks when it has come back."""
    done: list[object] = []

    class Aside(ExitStack):
        def __init__(self, launch: launches.Launch) -> None:
            super().__init__()
            done.append(("aside", launch.http))
            self.callback(done.append, ("back", launch.http))

    def spot_check(launch: launches.Launch, model: str, version: int) -> None:
        done.append(("judged", launch.http, model, version))
        if len(done) > 8:
            raise LoadError("it answers otherwise")

    monkeypatch.setattr(live, "aside", Aside)
    monkeypatch.setattr(live, "spot_check", spot_check)
    monkeypatch.setattr(live, "failed_share", lambda *_: 0.25)
    monkeypatch.setattr(live, "soak", lambda launch, *rest: done.append(("soak", *rest)))
    ready = of(("m", "2", "READY"), ("m", "1", "READY"))
    with answering(ready) as one, answering(ready) as other:
        ports = [server.launch.http for server in (one, other)]
        with ExitStack() as judged:
            follow(root, "m", [1, 2], judged, 7.0)
        ports.sort(key=str)  # the files of launches are sorted by name
        assert done == [
            step
            for port in ports
            for step in (
                ("aside", port),
                ("judged", port, "m", 2),
                ("back", port),
                ("soak", "m", 2, 7.0, 0.25),
            )
        ]
        with ExitStack() as judged:
            with pytest.raises(LoadError, match="it answers otherwise"):
                follow(root, "m", [1, 2], judged)
            # A server that is judged to be wrong stays away until it has gone back.
            assert done[8:] == [("aside", ports[0]), ("judged", ports[0], "m", 2)]
        assert done[10:] == [("back", ports[0])]
