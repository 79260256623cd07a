"""How servers are told to follow a promotion, and what they say that they serve."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from seresnext101_triton.client import launches
from seresnext101_triton.export import live
from seresnext101_triton.export.live import moved, versions_in_use
from seresnext101_triton.server import acceptance
from seresnext101_triton.server.errors import LoadError
from seresnext101_triton.server.models import versions_to_serve
from seresnext101_triton.server.view import View
from tests.scripted import Scripted, scripted

Answering = Callable[..., AbstractContextManager[Scripted]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for version in "12":
        (tmp_path / "models" / "m" / version).mkdir(parents=True)
    (tmp_path / "models" / "m" / "config.pbtxt").write_text("max_batch_size: 3")
    return tmp_path / "models"


@pytest.fixture
def answering(root, monkeypatch) -> Answering:
    monkeypatch.setenv(launches.FOLDER_VARIABLE, str(root.parent))
    monkeypatch.setattr(live, "_POLL_S", 0.01)
    monkeypatch.setattr(live, "spot_check", lambda *_: None)
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
    both = of(("m", "1", "READY"), ("m", "2", "READY"), ("m", "7", "UNLOADING"))
    with answering(both) as one, answering(of(("other", "2", "READY"))) as other:
        with moved(root, "m", [2, 1]) as urls:
            assert urls == [one.launch.url]
        # What is loaded now, and again after a death.
        assert versions_to_serve(one.launch.models_folder / "m") == [1, 2]
        assert View.of(one.launch).accepted("m") == [1, 2]
        assert View.of(one.launch).has_read(root / "m")
    assert "POST /v2/repository/models/m/load" in one.asked
    assert set(other.asked) == {"POST /v2/repository/index"}


def test_a_server_that_does_not_follow_is_told_with_its_reasons(answering, root, monkeypatch):
    monkeypatch.setattr(live, "_FOLLOWS_WITHIN_S", 0.1)

    def fail(message: str) -> None:
        with pytest.raises(LoadError, match=message), moved(root, "m", [2]):
            pytest.fail("it has not followed")

    states = ("m", "1", "READY"), ("m", "2", "UNAVAILABLE"), ("m", "5", "UNAVAILABLE")
    with answering(of(*states, reason="no memory")) as server:
        fail(
            r"^model 'm' did not become version 2 within 0 s: no memory. The repository is as .*"
            "and its servers answer as before$"
        )
        assert versions_to_serve(server.launch.models_folder / "m") == [1]
        server.answer = of(*states)
        fail("within 0 s: the server gives no reason")
        # Versions that should be gone are waited for too.
        server.answer = of(("m", "1", "READY"), ("m", "2", "READY"))
        fail("did not become version 2")


def test_each_server_is_judged_before_the_next_one_loads(answering, root, monkeypatch):
    """The version is judged with the server aside, and soaks when it has come back."""
    done: list[object] = []
    wrong: list[int] = []

    class Aside(ExitStack):
        def __init__(self, launch: launches.Launch) -> None:
            super().__init__()
            done.append(("aside", launch.http))
            self.callback(done.append, ("back", launch.http))

    def spot_check(launch: launches.Launch, model: str, version: int) -> None:
        done.append(("judged", launch.http, model, version))
        if wrong:
            raise LoadError("it answers otherwise")

    monkeypatch.setattr(live, "aside", Aside)
    monkeypatch.setattr(live, "spot_check", spot_check)
    monkeypatch.setattr(live, "failed_share", lambda *_: 0.25)
    monkeypatch.setattr(live, "soak", lambda launch, *rest: done.append(("soak", *rest)))
    ready = of(("m", "2", "READY"), ("m", "1", "READY"))
    with answering(ready) as one, answering(ready) as other:
        ports = [server.launch.http for server in (one, other)]
        ports.sort(key=str)  # the files of launches are sorted by name
        with moved(root, "m", [1, 2], 7.0):
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
        done.clear()
        wrong.append(2)
        went_back = acceptance.take_back

        def take_back(launch: launches.Launch, *rest: Any) -> None:
            went_back(launch, *rest)
            done.append(("went back", launch.http))

        monkeypatch.setattr(acceptance, "take_back", take_back)
        with pytest.raises(LoadError, match="it answers otherwise"), moved(root, "m", [1, 2]):
            pytest.fail("it was judged to be wrong")
        # A server that is judged to be wrong stays away until it has gone back.
        steps = "aside", "judged", "went back", "back"
        assert [step[0] for step in done] == [*steps]  # type: ignore[index]


def test_what_fails_later_takes_all_servers_back_unless_it_was_published(answering, root):
    config = root / "m" / "config.pbtxt"
    with answering(of(("m", "1", "READY"))) as server:
        view = View.of(server.launch)

        def interrupt(*, after_publishing: bool) -> None:
            with pytest.raises(KeyboardInterrupt), moved(root, "m", [1]):
                view.accept("m", [2])
                if after_publishing:
                    config.write_text("version_policy { specific { versions: 1 } }")
                raise KeyboardInterrupt

        config.write_text("version_policy { specific { versions: 2 } }")
        interrupt(after_publishing=False)
        assert view.accepted("m") == [1]  # with which it answered before
        interrupt(after_publishing=True)
        assert view.accepted("m") == [2]
