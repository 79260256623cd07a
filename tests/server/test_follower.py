"""What a follower does about each change, with a server whose answers are given.

`test_following.py` has the same with a real server.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from seresnext101_triton.client import launches
from seresnext101_triton.client.launches import Launch
from seresnext101_triton.server import control
from seresnext101_triton.server import following as module
from seresnext101_triton.server.control import Control
from seresnext101_triton.server.errors import LoadError
from seresnext101_triton.server.following import Follower, signature
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.models import versions_to_serve
from seresnext101_triton.server.view import View
from tests.scripted import Scripted, scripted
from tests.waiting import until


@dataclass
class Followed:
    """The parts of a server that its follower uses, and a tritonserver that loads what it sees.

    Attributes:
        loaded: The versions of each model that answer.
        broken: Why nothing can be loaded; empty if all can.
        asked: What was loaded and unloaded.
        said: The lines for a person.
    """

    repository: Path
    launch: Launch
    view: View
    loaded: dict[str, list[int]] = field(default_factory=dict)
    broken: str = ""
    soak_s: float = 0.0
    only: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def control(self) -> Control:
        return Control(self.launch)

    def plain(self, text: str) -> str:
        return text.replace("/hidden", "/shown")

    def answer(self, asked: str) -> tuple[int, object]:
        if asked.endswith("/index"):
            return 200, [
                {"name": name, "version": str(version), "state": "READY"}
                for name, versions in self.loaded.items()
                for version in versions
            ]
        model, _, change = asked.partition("models/")[2].partition("/")
        self.asked.append(f"{change} {model}")
        entry = self.launch.models_folder / model
        if change == "load" and (self.broken or not entry.exists()):
            return 400, {"error": self.broken or "it is not shown"}
        self.loaded[model] = versions_to_serve(entry) if change == "load" else []
        return 200, b""

    def follower(self) -> Follower:
        return Follower(cast(Server, self), self.said.append)

    def look(self, follower: Follower) -> str:
        """Look once, wait for what comes of it, and return the line that was said, if any."""
        self.said.clear()
        follower.check()
        assert until(lambda: not follower.is_loading)
        (said,) = self.said or [""]
        return said

    def shown(self, model: str = "m") -> list[int]:
        return versions_to_serve(self.launch.models_folder / model)


@pytest.fixture
def running(tmp_path, monkeypatch) -> Iterator[Scripted]:
    monkeypatch.setenv(launches.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(module, "spot_check", lambda *_: None)
    monkeypatch.setattr(control, "_POLL_S", 0.001)
    with scripted(tmp_path, lambda _: (500, b"")) as server:
        yield server


@pytest.fixture
def followed(running, tmp_path) -> Followed:
    """A server with version 1 of one model."""
    found = Followed(tmp_path / "models", running.launch, View.of(running.launch))
    running.answer = found.answer
    publish(found, 1)
    found.view.show(found.repository / "m")
    found.loaded = {"m": [1]}
    return found


def publish(followed: Followed, version: int, model: str = "m", *, damaged: bool = False) -> None:
    folder = followed.repository / model / str(version)
    folder.mkdir(parents=True)
    content = str(version).encode()
    digest = hashlib.sha256(content).hexdigest()
    facts = {"file": "model.onnx", "sha256": digest, "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps({"artifacts": [facts]}))
    (folder / "model.onnx").write_bytes(b"" if damaged else content)
    configure(followed, "", model)


def configure(followed: Followed, text: str, model: str = "m") -> None:
    """Replace the config of a model as an export does."""
    new = followed.repository / model / "new"
    new.write_text(text)
    new.rename(followed.repository / model / "config.pbtxt")


def test_what_has_changed_is_loaded_once(followed):
    follower = followed.follower()
    assert followed.look(follower) == "" and followed.asked == []
    publish(followed, 2)
    assert followed.look(follower) == "model m: version 2 served now (before: version 1)"
    assert followed.look(follower) == "" and followed.asked == ["load m"]
    configure(followed, "version_policy { all { } }")
    assert followed.look(follower) == "model m: versions 1, 2 served now (before: version 2)"
    configure(followed, "version_policy { all { } } max_batch_size: 2")
    assert followed.look(follower) == "" and followed.asked == ["load m"] * 3
    publish(followed, 1, "new")
    assert followed.look(follower) == "model new: version 1 served now (before: none)"
    assert followed.loaded == {"m": [1, 2], "new": [1]}


def test_only_the_models_that_are_served_are_followed(followed):
    followed.only = ("m",)
    follower = followed.follower()
    publish(followed, 1, "new")
    assert followed.look(follower) == "" and followed.asked == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda followed: publish(followed, 2, damaged=True),
            "version 2 is not as it was published: model.onnx has 0 bytes, and 1 were published",
        ),
        (
            lambda followed: configure(followed, "{"),
            "its config.pbtxt cannot be read, or names no version that is there",
        ),
        (
            lambda followed: configure(followed, "version_policy { specific { versions: 9 } }"),
            "its config.pbtxt cannot be read, or names no version that is there",
        ),
    ],
)
def test_what_must_not_be_loaded_leaves_the_old_version(followed, change, why):
    (followed.repository / "m" / "1" / "config.pbtxt").write_text("max_batch_size: 7")
    follower = followed.follower()
    change(followed)
    assert followed.look(follower) == f"model m: version 1 still served, because {why}"
    assert followed.asked == [] and followed.shown() == [1]  # also if it is loaded again
    publish(followed, 1, "new", damaged=True)
    assert followed.look(follower).startswith("model new: not served, because version 1 is not as")
    assert not (followed.launch.models_folder / "new").exists()


def test_a_version_that_the_server_refuses_is_not_kept(followed):
    follower = followed.follower()
    followed.broken = "no memory for /hidden/m"
    publish(followed, 2)
    why = "model 'm' cannot be loaded: no memory for /shown/m"
    assert followed.look(follower) == f"model m: version 1 still served, because {why}"
    assert followed.asked == ["load m"] and followed.shown() == [1]


@pytest.mark.parametrize("check", ["spot_check", "soak"])
def test_a_version_that_does_not_answer_as_it_should_goes_back(followed, monkeypatch, check):
    judged: list[tuple[object, ...]] = []

    def refuse(*about: object) -> None:
        judged.append(about)
        raise LoadError("it answers otherwise")

    monkeypatch.setattr(module, check, refuse)
    monkeypatch.setattr(module, "failed_share", lambda launch, model: 0.25)
    followed.soak_s = 7.0
    follower = followed.follower()
    publish(followed, 2)
    said = followed.look(follower)
    assert said == "model m: version 1 still served, because it answers otherwise"
    assert followed.loaded == {"m": [1]} and followed.asked == ["load m", "load m"]
    about = (followed.launch, "m", 2)
    assert judged == [(*about, 7.0, 0.25) if check == "soak" else about]
    publish(followed, 4, "new")
    assert followed.look(follower) == "model new: not served, because it answers otherwise"
    assert followed.loaded["new"] == [] and followed.asked[2:] == ["load new", "unload new"]


def test_a_server_that_has_died_is_looked_at_again(followed, running):
    follower = followed.follower()
    running.answer = lambda _: (503, b"")
    publish(followed, 2)
    said = followed.look(follower)
    assert said.startswith("model m: 127.0.0.1:") and said.endswith("; it is looked at again")
    running.answer = followed.answer
    assert followed.look(follower) == "model m: version 2 served now (before: version 1)"


def test_one_model_is_loaded_at_a_time_and_none_is_told_of_after_the_end(followed, monkeypatch):
    judged, end = threading.Event(), threading.Event()

    def judge(*_: object) -> None:
        judged.set()
        end.wait()

    monkeypatch.setattr(module, "spot_check", judge)
    follower = followed.follower()
    assert not follower.is_loading
    publish(followed, 2)
    publish(followed, 1, "new")
    follower.check()
    try:
        assert judged.wait(60) and follower.is_loading
        assert follower._thread and follower._thread.daemon  # the server may end meanwhile
        follower.check()
        assert followed.asked == ["load m"]
        follower.close()
    finally:
        end.set()
    assert until(lambda: not follower.is_loading)
    assert followed.said == []


def test_what_a_change_is_seen_by(tmp_path):
    folder = tmp_path / "m"
    assert signature(folder) is None
    folder.mkdir()
    place = folder.stat().st_ino
    assert signature(folder) == (place, 0, 0, ())
    (folder / "3").mkdir()
    (folder / "x").mkdir()
    config = folder / "config.pbtxt"
    config.write_text("")
    facts = config.stat()
    assert signature(folder) == (place, facts.st_ino, facts.st_mtime_ns, (3,))
    file = tmp_path / "file"
    file.touch()
    assert signature(file) is None
