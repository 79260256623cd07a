"""A server from its start to its end, with a short program in the place of tritonserver.

`test_launcher.py` has the same with a real one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from seresnext101_triton.client import timings
from seresnext101_triton.client.launches import read_launch, running_launches
from seresnext101_triton.server import control, installation, launcher
from seresnext101_triton.server import stubs as stubs_module
from seresnext101_triton.server.arguments import launch_arguments
from seresnext101_triton.server.errors import (
    IntegrityError,
    LoadError,
    NothingToServe,
    PortInUse,
    ServerError,
    WorkspaceError,
)
from seresnext101_triton.server.installation import Installation
from seresnext101_triton.server.keeping import KeptServer
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.ports import Ports
from seresnext101_triton.server.registry import WORKSPACE_PREFIX
from seresnext101_triton.server.tracing import Tracing
from tests.conftest import FREE_PORTS, write_model
from tests.server.programs import COMPLETE, READY, Program
from tests.waiting import until

BROKEN = {"name": "bad", "version": "1", "state": "UNAVAILABLE"}
ROOT = Path(launcher.__file__).parents[2]


@pytest.fixture
def program(tmp_path, monkeypatch) -> Program:
    monkeypatch.setattr(launcher, "_POLL_S", 0.01)
    monkeypatch.setattr(control, "_POLL_S", 0.01)
    return Program.installed(tmp_path, monkeypatch)


@pytest.fixture
def repository(tmp_path) -> Path:
    write_model(tmp_path / "models", "m", COMPLETE, {"model.onnx": b"one"})
    return tmp_path / "models"


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def server(program, repository, notes) -> Iterator[Server]:
    found = Server(repository, ports=FREE_PORTS, note=notes.append)
    yield found
    found.stop()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_server_is_known_from_its_start_to_its_end(program, repository, tmp_path):
    assert Server(repository).ports == Ports()
    notes: list[str] = []
    trace = Tracing("http://c:4318/v1/traces")
    core = min(os.sched_getaffinity(0))
    with Server(
        repository,
        ports=FREE_PORTS,
        note=notes.append,
        allow=["trace"],
        response_cache_mib=3,
        trace=trace,
        cpus={core},
    ) as server:
        (start,) = program.starts()
        launch = server.launch
        assert [(each.name, each.state) for each in server.models] == [("m", "READY")]
        assert server.process is not None and server.process.shows_errors
        assert psutil.Process(server.pid).ppid() == os.getpid()
        assert server.exit_code() is None and server.url == f"127.0.0.1:{server.ports.grpc}"
        assert (launch.pid, launch.repository) == (os.getpid(), str(repository))
        assert {**vars(server.ports)} == {
            name: getattr(launch, name) for name in ("grpc", "http", "metrics")
        }
        assert launch.restricted == ("model-repository", "shared-memory", "logging")
        assert re.fullmatch("[0-9a-f]{32}", launch.key) and not launch.tls
        assert (launch.state, launch.address) == ("ready", "127.0.0.1")
        assert running_launches() == [launch] == [read_launch(launch.file)]
        assert launch.file.stem in launch.workspace and launch.file.stem in launch.shared_memory
        assert (launch.models_folder / "m").resolve() == repository / "m"
        assert start["arguments"] == [
            "--disable-auto-complete-config",
            *launch_arguments(launch),
            "--cache-config=local,size=3145728",
            *trace.arguments(),
        ]
        assert start["environment"]["SERVED_MODEL_REPOSITORY"] == str(launch.models_folder)
        assert (start["folder"], start["cpus"]) == (str(ROOT), [core])
        assert notes == ["not checked, because there is no manifest: m version 1"]
    assert names(tmp_path / "launches") == set() == names(tmp_path / "temporary")
    assert server.exit_code() == 0
    server.stop()


def test_a_key_that_was_given_is_used(program, repository):
    with Server(repository, ports=FREE_PORTS, key="a-key") as server:
        assert server.launch.key == "a-key" and server.control.is_ready()


@pytest.mark.parametrize(
    ("index", "ready", "log", "said"),
    [
        (
            *([READY, BROKEN | {"reason": "no \\n  memory in $MODELS/m At: /x.py"}], 200, []),
            "model 'bad' cannot be loaded: no memory in {repository}/m\n"
            "serve the others with `only=NAME`",
        ),
        ([BROKEN | {"reason": "odd"}], 200, [], "model 'bad' cannot be loaded: odd"),
        (
            *([BROKEN], 200, ["E1127 1 x.cc:9] 'bad' has no file", "E1127 1 x.cc:9] 'good' no"]),
            "model 'bad' cannot be loaded: 'bad' has no file",
        ),
        (
            *([READY], 400, ["I1127 1 x.cc:9] up", "E1127 1 x.cc:9] odd"]),
            "tritonserver does not call itself ready:\nE1127 1 x.cc:9] odd",
        ),
    ],
)
def test_why_a_server_does_not_serve_all_its_models(
    program, server, repository, index, ready, log, said
):
    program.plan(index=index, ready=ready, log=log)
    with pytest.raises(LoadError) as refused, server:
        pass
    assert str(refused.value) == said.format(repository=repository)
    assert server.exit_code() is not None


def test_a_reason_is_one_line_without_a_place_in_the_code(server):
    server.start()
    models = server.launch.models_folder
    text = f"no\\nmemory  for\n {models}/m/1/model.onnx At: /x/model.py(9): load"
    assert server.plain(text) == f"no memory for {server.repository}/m/1/model.onnx"


def test_a_free_port_that_is_lost_is_replaced(program, server):
    program.plan(ends=[{"lose": "grpc"}, {"lose": "metrics"}])
    with server:
        first, _, third = program.starts()
        assert f"--grpc-port={server.ports.grpc}" in third["arguments"]
        assert first["arguments"][-4:] != third["arguments"][-4:]
        # From now on, clients find it where it is.
        before = server.ports
        server.kill()
        assert until(lambda: server.exit_code() is not None)
        server.publish(state="restarting")
        server.clear()
        server.start_process()
        server.wait_until_ready()
        assert server.ports == before and server.launch.state == "ready"


def test_a_port_that_is_lost_each_time_is_told(program, server):
    program.plan(ends=[{"lose": "grpc"}] * 9)
    with pytest.raises(PortInUse, match="Choose another with `grpc_port`"), server:
        pass
    assert len(program.starts()) == 3


def test_a_port_that_was_asked_for_is_not_replaced(program, repository):
    program.plan(ends=[{"lose": "http"}])
    (free,) = {FREE_PORTS.resolve("127.0.0.1").http}
    with pytest.raises(PortInUse, match=f"cannot listen on 127.0.0.1:{free} .*`http_port=0`"):
        with Server(repository, ports=Ports(0, free, 0)):
            pass
    assert len(program.starts()) == 1


def test_after_it_was_up_its_end_is_told_at_once(program, server):
    """Who watches it decides whether it is started again."""
    with server:
        program.plan(ends=[{"code": -9}] * 9, log=["a line"])
        server.kill()
        server.clear()
        server.start_process()
        with pytest.raises(ServerError) as ended:
            server.wait_until_ready()
    assert str(ended.value) == "tritonserver ended with signal SIGKILL before it was ready:\na line"


def test_a_server_that_hangs_after_the_death_of_a_stub_is_started_again(
    program, server, notes, monkeypatch
):
    monkeypatch.setattr(stubs_module, "_HANGS_AFTER_S", 0.0)
    program.plan(ends=[{"hang": True}])
    with server:
        (line,) = notes[1:]
    assert re.fullmatch(
        r"model \(unknown\): its process \d+ ended with signal SIGKILL while it was loaded, and "
        "tritonserver waits for it for ever; it is started again",
        line.replace("model m:", "model (unknown):"),
    )
    assert len(program.starts()) == 2


def test_a_model_whose_stub_has_died_is_tried_three_times(program, server, notes):
    reason = "Stub process 'm' is not healthy At: /x"
    program.plan(index=[BROKEN | {"reason": reason}], log=["a line"])
    said = "a model was not loaded: Stub process 'm' is not healthy"
    with pytest.raises(ServerError) as given_up, server:
        pass
    assert str(given_up.value) == f"{said}:\na line"
    assert notes[1:] == [f"{said}; it is started again"] * 2 and len(program.starts()) == 3


def test_a_server_that_is_not_ready_in_time(program, server):
    program.plan(log=["a line"], ends=[{"hang": True}])
    server.start()
    assert until(lambda: server.log_tail() == "a line")
    began = time.monotonic()
    with pytest.raises(ServerError, match="^tritonserver was not ready in time:\na line$"):
        server.wait_until_ready(0.0)
    server.check_deadline(began + 600)


def test_the_end_of_the_log(program, server):
    assert server.log_tail() == ""
    program.plan(log=[str(number) for number in range(30)])
    with server:
        assert until(lambda: server.log_tail(1) == "29")
        assert server.log_tail().split() == [str(number) for number in range(10, 30)]


def test_a_server_that_drains_unloads_its_models_first(program, server, monkeypatch):
    program.plan(index=[READY | {"name": "b"}, READY, READY | {"version": "2"}])
    waited: list[float] = []
    with server:
        assert server.process is not None
        end = server.process.end
        monkeypatch.setattr(
            server.process, "end", lambda timeout_s: (waited.append(timeout_s), end(timeout_s))
        )
        server.drain()
        assert program.asked() == [f"/v2/repository/models/{name}/unload" for name in ("b", "m")]
        found = read_launch(server.launch.file)
        assert found and found.state == "stopping"
    assert waited == [3.0]


def test_a_server_that_does_not_drain_ends_when_triton_has_waited(program, server, monkeypatch):
    waited: list[float] = []
    with server:
        assert server.process is not None
        end = server.process.end
        monkeypatch.setattr(
            server.process, "end", lambda timeout_s: (waited.append(timeout_s), end(timeout_s))
        )
    assert waited == [15.0]


def test_a_server_that_has_died_drains_at_once(program, server):
    with server:
        server.kill()
        assert until(lambda: server.exit_code() is not None)
        server.drain()
    assert program.asked() == []


def test_what_a_dead_server_has_left_is_removed_before_its_next_start(program, server):
    with server:
        region = Path("/dev/shm", f"{server.launch.shared_memory}left")
        region.touch()
        server.kill()
        server.clear()
        assert not region.exists() and server.exit_code() is not None


def test_a_model_that_the_server_cannot_take_is_left_out(
    program, repository, server, notes, monkeypatch
):
    config = 'input { name: "x" data_type: TYPE_STRING } output { name: "y" }'
    write_model(repository, "image_preprocess_x", config, {})
    ensemble = 'ensemble_scheduling { step { model_name: "image_preprocess_x" } }'
    write_model(repository, "m_image", ensemble, {})
    found = Installation(program.path, ("--own=1",), {"OWN": "2"}, passes_bytes=False)
    monkeypatch.setattr(installation, "find", lambda workspace: found)
    with server:
        assert names(server.launch.models_folder) == {"m"}
        (start,) = program.starts()
        assert start["arguments"][0] == "--own=1" and start["environment"]["OWN"] == "2"
    assert [line for line in notes if line.startswith("left out: image_preprocess_x, m_image:")]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), None])
def test_a_workspace_that_cannot_be_written_is_told(program, server, monkeypatch, tmp_path, error):
    def find(workspace: Path) -> Installation:
        assert workspace.name.startswith(WORKSPACE_PREFIX)
        raise error or LookupError

    monkeypatch.setattr(installation, "find", find)
    expected = WorkspaceError if error else LookupError
    with pytest.raises(expected) as refused, server:
        pass
    if error:
        assert f"{tmp_path / 'temporary'} cannot be written (No space left)" in str(refused.value)
    assert names(tmp_path / "launches") == set() == names(tmp_path / "temporary")


def test_one_version_can_be_served_under_its_own_name(program, repository):
    (repository / "m" / "2").mkdir()
    program.plan(index=[READY | {"name": "m@2", "version": "2"}])
    with Server(repository, ports=FREE_PORTS, only=["m@2"]) as server:
        assert names(server.launch.models_folder) == {"m@2"}
    with pytest.raises(NothingToServe, match="m has no version 3: choose from 1, 2"):
        Server(repository, only=["m@3"]).start()


def test_a_server_that_follows_starts_with_the_version_that_is_intact(program, repository, notes):
    for version, content in (("1", b"one"), ("2", b"changed")):
        folder = repository / "m" / version
        folder.mkdir(exist_ok=True)
        (folder / "model.onnx").write_bytes(content)
        digest = hashlib.sha256({"1": b"one", "2": b"two"}[version]).hexdigest()
        facts = {"file": "model.onnx", "sha256": digest, "bytes": 3}
        (folder / "manifest.json").write_text(json.dumps({"artifacts": [facts]}))
    with pytest.raises(IntegrityError, match="model 'm' version 2: model.onnx has 7 bytes"):
        Server(repository, ports=FREE_PORTS, note=notes.append).start()
    with Server(repository, ports=FREE_PORTS, note=notes.append, follow=True) as server:
        assert names(server.launch.models_folder / "m") >= {"1"}
        assert "2" not in names(server.launch.models_folder / "m")
        (start,) = program.starts()
        assert "--disable-auto-complete-config" not in start["arguments"]
    assert notes[0].startswith("model m: version 1 is served, because version 2 is not as it was")


# A server that is kept running


@pytest.fixture
def kept(server) -> KeptServer:
    return KeptServer(server, lambda line: None)


def test_a_kept_server_is_up_when_it_is_and_tells_how_long_its_models_took(program, kept):
    line = "I1127 10:00:0{}.5 1 model.cc:9] {}"
    program.plan(log=[line.format(1, "loading: m:1"), line.format(3, "successfully loaded 'm'")])
    said: list[str] = []
    with timings.measured(True, said.append):
        kept.start()
        assert not kept.is_up()
        assert until(kept.is_up)
    assert any(re.fullmatch(r" *2\.000 s       loading m", line) for line in said)
    assert kept.models == kept.server.models != []
    assert kept.launch == kept.server.launch and kept.is_live()
    assert not kept.is_recovering and not kept.is_following
    kept.check_deadline(time.monotonic() + 600)
    with pytest.raises(ServerError, match="not ready in time"):
        kept.check_deadline(0.0)
    kept.look()
    kept.server.kill()
    assert until(lambda: kept.server.exit_code() is not None)
    assert not kept.is_live()
    kept.look()
    assert kept.is_recovering and kept.launch.state == "restarting"
    kept.stop()
    assert kept.server.process and running_launches() == []


def test_a_kept_server_drains(program, kept):
    kept.start()
    assert until(kept.is_up)
    kept.drain()
    assert program.asked() == ["/v2/repository/models/m/unload"]
    assert kept.launch.state == "stopping"


def test_a_kept_server_follows_its_repository_unless_another_one_does(program, repository):
    server = Server(repository, ports=FREE_PORTS, follow=True, note=lambda line: None)
    said: list[str] = []
    kept = KeptServer(server, said.append)
    try:
        kept.start()
        assert until(kept.is_up)
        (repository / "m" / "2").mkdir()
        kept.look(follow=False)
        assert not kept.is_following and program.asked() == []
        kept.look()
        assert until(lambda: not kept.is_following)
        assert program.asked() == ["/v2/repository/models/m/load"]
    finally:
        kept.stop()
