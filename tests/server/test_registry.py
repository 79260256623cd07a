"""The files of a launch, and what is removed of launches whose processes were killed."""

from __future__ import annotations

import math
import os
import stat
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from seresnext101_triton.client import launches
from seresnext101_triton.client.launches import Launch, is_locked, read_launch
from seresnext101_triton.server import registry
from seresnext101_triton.server.errors import ServerError
from seresnext101_triton.server.registry import Registration, remove_traces, sweep
from tests.waiting import until


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The folder of launches; shared memory and Triton's folders are in one of the test's own."""
    (tmp_path / "shared").mkdir()
    monkeypatch.setenv(launches.FOLDER_VARIABLE, str(tmp_path / "run"))
    monkeypatch.setattr(registry, "SHARED_MEMORY", tmp_path / "shared")
    monkeypatch.setattr(registry, "_TEMPORARY", tmp_path / "shared")
    return tmp_path / "run"


def launch_of(tmp_path: Path, name: str) -> Launch:
    """A launch with a workspace and two regions of shared memory."""
    workspace = tmp_path / f"tritonserver-{name}"
    (workspace / "models").mkdir(parents=True)
    for end in "ab":
        (tmp_path / "shared" / f"triton-{name}-{end}").touch()
    facts = {"pid": 1, "repository": "r", "address": "::1", "grpc": 1, "http": 2, "metrics": 3}
    own = {"key": "k", "restricted": ("trace",), "workspace": str(workspace)}
    return Launch(**facts | own, shared_memory=f"triton-{name}-")  # type: ignore[arg-type]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_launch_is_there_until_it_is_removed(folder, tmp_path):
    registration = Registration()
    try:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert registration.file.parent == folder and registration.name.startswith(
            f"{os.getpid()}-"
        )
        suffixes = {".lock", ".control", ".aside", ".canary"}
        assert names(folder) == {f"{registration.name}{suffix}" for suffix in suffixes}
        launch = launch_of(tmp_path, "a")
        for state in ("starting", "ready"):
            registration.write(replace(launch, state=state))
            found = read_launch(registration.file)
            assert found == replace(launch, state=state, file=registration.file)
        suffixes.add(".json")
        assert names(folder) == {f"{registration.name}{suffix}" for suffix in suffixes}
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
        assert is_locked(registration.file.with_suffix(".lock"))
        assert not is_locked(registration.file.with_suffix(".control"))
        sweep()
        assert len(names(folder)) == 5
    finally:
        registration.remove()
    assert names(folder) == set()
    assert names(tmp_path / "shared") == {"triton-a-a", "triton-a-b"}


def test_what_a_killed_launch_has_left_is_removed(folder, tmp_path):
    registration, other = Registration(), Registration()
    registration.write(launch_of(tmp_path, "a"))
    other.write(launch_of(tmp_path, "b"))
    (folder / "damaged.lock").touch()
    (folder / "damaged.json").write_text("{")
    os.close(registration.lock)  # as the kernel does
    try:
        sweep()
        assert {name.partition(".")[0] for name in names(folder)} == {other.name}
        assert names(tmp_path / "shared") == {"triton-b-a", "triton-b-b"}
        assert {path.name for path in tmp_path.glob("triton*")} == {"tritonserver-b"}
    finally:
        other.remove()


def test_only_what_is_named_as_a_launch_names_it_is_removed(tmp_path):
    """The file of a launch may be damaged."""
    launch = launch_of(tmp_path, "a")
    for path in (tmp_path / "mine", tmp_path / "shared" / "mine"):
        path.mkdir()
    for damaged in ("", "mine", "a-triton-"):
        remove_traces(replace(launch, shared_memory=damaged, workspace=str(tmp_path / "mine")))
    assert names(tmp_path / "shared") == {"triton-a-a", "triton-a-b", "mine"}
    assert (tmp_path / "mine").is_dir()
    remove_traces(launch)
    remove_traces(launch)
    assert names(tmp_path / "shared") == {"mine"} and not Path(launch.workspace).exists()


def test_a_folder_in_which_others_can_write_gets_no_key(folder):
    folder.mkdir()
    for mode, message in ((0o720, "in which only this user"), (0o702, "in which only this user")):
        folder.chmod(mode)
        with pytest.raises(ServerError, match=rf"{folder} is not .*{message}.*\$SERESNEXT101_RUN"):
            Registration()
    folder.chmod(0o755)
    Registration().remove()
    folder.rmdir()
    folder.symlink_to(folder.parent)
    with pytest.raises(ServerError, match="is not a folder in which only this user"):
        Registration()
    folder.unlink()
    folder.write_text("")
    with pytest.raises(ServerError, match=rf"{folder} cannot hold .*\(File exists\): name another"):
        Registration()


def test_a_launch_that_cannot_be_written_is_told(folder, tmp_path):
    registration = Registration()
    launch = launch_of(tmp_path, "a")
    registration.file.mkdir()
    try:
        with pytest.raises(ServerError, match=f"^{folder} cannot hold the server's key"):
            registration.write(launch)
    finally:
        registration.file.rmdir()
        registration.remove()


def test_empty_folders_of_triton_are_swept_that_are_older_than_every_server(tmp_path, monkeypatch):
    program = tmp_path / "tritonserver"
    program.symlink_to("/bin/sleep")
    places = {name: tmp_path / "shared" / f"python_env_{name}" for name in ("aaaaaa", "bbbbbb")}
    other, full = (tmp_path / "shared" / name for name in ("python_env_a", "python_env_cccccc"))
    for place in (*places.values(), other, full):
        place.mkdir()
    (full / "file").touch()
    for name, age_s in {"aaaaaa": 60, "bbbbbb": -60}.items():
        os.utime(places[name], (time.time() - age_s, time.time() - age_s))
    with subprocess.Popen([program, "600"]) as server:
        try:
            assert until(lambda: server.pid in registry._servers())
            monkeypatch.setattr(registry, "_servers", lambda: [server.pid])
            sweep()
            assert names(tmp_path / "shared") == {"python_env_bbbbbb", other.name, full.name}
        finally:
            server.kill()
    sweep()  # it has just ended
    assert names(tmp_path / "shared") == {other.name, full.name}
    monkeypatch.setattr(registry, "_servers", list)
    places["bbbbbb"].mkdir()
    sweep()
    assert names(tmp_path / "shared") == {other.name, full.name}


def test_when_a_process_was_started(monkeypatch):
    before = time.time()
    with subprocess.Popen(["sleep", "600"]) as process:
        # It counts as a second older, since the time of a file is of another clock.
        found = registry._started_s(process.pid) + 1
        process.kill()
    assert before - 1 <= found <= time.time() + 1
    assert registry._started_s(process.pid) == math.inf
