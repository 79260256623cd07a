"""A server that is left alone: what dies is started again, and the clients lose nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from seresnext101_triton.client import Classifier, TransportOptions
from seresnext101_triton.client.bulk import BulkEvents, BulkOptions, classify_into
from seresnext101_triton.client.cli import main as client
from seresnext101_triton.client.connection import Connection
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.server.control import Control, running
from seresnext101_triton.server.stubs import Stub, children_of, stubs_of
from tests.conftest import children, onnx_convolution, write_model
from tests.server.launching import DEADLINE_S, Launcher, launcher

CONVOLUTION = 'platform: "onnxruntime_onnx" instance_group { kind: KIND_CPU count: 1 }'


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository with one small model, quick to load."""
    repository = tmp_path / "models"
    write_model(repository, "convolution", CONVOLUTION, {"model.onnx": onnx_convolution((3, 4, 4))})
    return repository


def test_what_dies_is_started_again_and_counted(small, capsys):
    """A stub, the server, and a stub of the new server; then a signal ends all of it."""
    with launcher(small) as started:
        launch = started.launch()
        for deaths in (1, 2):
            after = len(started.lines)
            os.kill(started.stubs("convolution")[0], signal.SIGKILL)
            line = started.expect("its process", after)
            assert "model convolution" in line and "SIGKILL; it is loaded again" in line
            assert "model convolution: ready again after" in started.expect("ready again", after)
            assert started.launch().model_restarts == {"convolution": deaths}
            if deaths == 1:
                os.kill(started.server(), signal.SIGKILL)
                assert "SIGKILL; it is started again" in started.expect("tritonserver ended", after)
                started.expect("tritonserver: ready again after")
        now = started.launch()
        assert now.server_restarts == 1
        assert (now.grpc, now.http, now.key) == (launch.grpc, launch.http, launch.key)
        assert [state.state for state in Control(now).index()] == ["READY"]
        assert client(["health", "--json", "--url", now.url]) == 0
        assert json.loads(capsys.readouterr().out)["restarts"] == "server 1, convolution 2"
        pid = started.process.pid
        assert started.end(signal.SIGHUP) == 0
        assert started.lines[-1] == "stopped"
    assert children(pid) == [] and running(small) == []
    assert not list(Path("/dev/shm").glob(f"{launch.shared_memory}*"))
    assert not Path(launch.workspace).exists()


def test_bulk_and_callers_lose_nothing_while_stubs_and_the_server_are_killed(repository, tmp_path):
    """Every request of a client with retries is answered rightly, and every image exactly once."""
    photographs = [str(path) for path in sample_photographs()]
    images = tmp_path / "images"
    images.mkdir()
    for number in range(60):
        (images / f"{number:03}.jpg").symlink_to(photographs[number % len(photographs)])
    names = [str(path) for path in sorted(images.iterdir())]
    with launcher(repository, "--model", "tiny_onnx") as started:
        url = started.launch().url
        calling, finished = threading.Event(), threading.Event()
        wrong: list[object] = []
        answered = [0]

        def call() -> None:
            options = TransportOptions(retries=60)
            with Classifier(url, "tiny_onnx", transport_options=options) as classifier:
                batch = classifier.prepare(photographs[0])[None]
                expected = classifier.classify_batch(batch, top=1)
                calling.set()
                while not finished.is_set():
                    try:
                        if classifier.classify_batch(batch, top=1) != expected:
                            wrong.append("another answer")
                    except Exception as error:
                        wrong.append(error)
                    answered[0] += 1

        caller = threading.Thread(target=call)
        caller.start()
        try:
            assert calling.wait(DEADLINE_S)
            output = tmp_path / "answers.jsonl"
            deaths = iter(["stub", "server", "stub"])
            due = [5]

            def progress(tally) -> None:
                if tally.answered >= due[0] and (victim := next(deaths, "")):
                    due[0] += 20
                    after = len(started.lines)
                    pids = started.stubs("tiny_onnx") if victim == "stub" else [started.server()]
                    os.kill(pids[0], signal.SIGKILL)
                    killed.append((victim, after))

            killed: list[tuple[str, int]] = []
            with Classifier(url, "tiny_onnx") as classifier:
                tally = classify_into(
                    output,
                    lambda: iter(names),
                    classifier,
                    BulkOptions(patience_s=DEADLINE_S, top=1, batch=1, in_flight=2),
                    BulkEvents(progress),
                )
        finally:
            finished.set()
            caller.join()
    assert [victim for victim, _ in killed] == ["stub", "server", "stub"]
    assert (tally.answered, tally.unreadable, tally.refused) == (60, 0, 0)
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert sorted(record["image"] for record in records) == names
    assert not wrong and answered[0]


@contextmanager
def killed_while_loading(started: Launcher, times: int) -> Iterator[None]:
    """Kill the next processes that load a model, before they have loaded it.

    The backend reads its files for a moment after its process is there, and then is stopped here.
    """
    end = threading.Event()

    def kill() -> None:
        known = {stub.pid for stub in all_stubs(started)}
        killed = 0
        while killed < times and not end.is_set():
            for stub in all_stubs(started):
                if stub.pid not in known and stub.exit_status is None:
                    known.add(stub.pid)
                    killed += 1
                    os.kill(stub.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def all_stubs(started: Launcher) -> list[Stub]:
    return [stub for server in children_of(started.process.pid) for stub in stubs_of(server)]


def test_a_process_that_is_killed_while_its_model_is_loaded(small):
    """Triton itself waits for ever: at the start, and when the model is loaded again."""
    started = Launcher(small)
    try:
        with killed_while_loading(started, 1):
            line = started.expect("waits for it for ever; it is started again")
            assert "ended with signal SIGKILL while it was loaded" in line
            started.expect("gRPC ")
        with killed_while_loading(started, 3):
            after = len(started.lines)
            os.kill(started.stubs("convolution")[0], signal.SIGKILL)
            started.expect("waits for it for ever; it is started again", after)
            started.expect("tritonserver: ready again", after)
        assert started.stubs("convolution")
        assert [state.state for state in Control(started.launch()).index()] == ["READY"]
        assert client(["health", "--url", started.launch().url]) == 0
    finally:
        assert started.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_signal_right_after_the_ready_line_is_not_lost(small, number):
    with launcher(small) as started:
        assert started.end(number) == 0
        assert number.name in started.lines[-2] and started.lines[-1] == "stopped"


def test_a_signal_while_models_load_ends_it(small):
    started = Launcher(small)
    started.expect("loading")
    time.sleep(0.5)
    assert started.end(signal.SIGTERM) == 0
    assert started.lines[-1] == "stopped" and running(small) == []


def test_a_request_in_flight_is_answered_before_the_end(tmp_path):
    """The batcher holds the request back for two seconds, and the signal arrives meanwhile."""
    import numpy as np
    import tritonclient.grpc as triton

    repository = tmp_path / "models"
    config = """
        platform: "onnxruntime_onnx"  max_batch_size: 4
        input { name: "INPUT__0" data_type: TYPE_FP32 dims: [3, 4, 4] }
        output { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [2, 2, 2] }
        dynamic_batching { max_queue_delay_microseconds: 2000000 }
    """
    write_model(repository, "slow", config, {"model.onnx": onnx_convolution((3, 4, 4))})
    with launcher(repository) as started:
        answers: list[np.ndarray | None] = []
        with triton.InferenceServerClient(started.launch().url) as connection:
            tensor = triton.InferInput("INPUT__0", [1, 3, 4, 4], "FP32")
            tensor.set_data_from_numpy(np.ones((1, 3, 4, 4), np.float32))
            asked = threading.Thread(
                target=lambda: answers.append(
                    connection.infer("slow", [tensor]).as_numpy("OUTPUT__0")
                )
            )
            asked.start()
            time.sleep(0.5)
            assert started.end() == 0
            asked.join()
    assert answers[0] is not None and (answers[0] == 27).all()


def test_what_a_killed_launcher_leaves_is_swept_by_the_next(small):
    with launcher(small) as started:
        first = started.launch()
        started.process.kill()
        started.process.wait()
        started._reader.join()
    deadline = time.monotonic() + DEADLINE_S
    while running(small) and time.monotonic() < deadline:  # the kernel ends the server
        time.sleep(0.1)
    assert Path(first.workspace).exists()
    with launcher(small) as second:
        assert [launch.pid for launch in running(small)] == [second.process.pid]
        assert not Path(first.workspace).exists() and not first.file.exists()
        assert not list(Path("/dev/shm").glob(f"{first.shared_memory}*"))


def test_a_model_that_was_unloaded_on_purpose_stays_away(small):
    with launcher(small) as started:
        control = Control(started.launch())
        control.unload("convolution")
        assert control.wait_until_unloaded(["convolution"], DEADLINE_S)
        time.sleep(1)  # the launcher looks several times
        assert started.launch().model_restarts == {}
        assert [state.state for state in control.index()] == ["UNAVAILABLE"]


def test_a_stranger_does_not_learn_of_restarts(server, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SERESNEXT101_RUN_FOLDER", str(tmp_path))
    assert client(["health", "--json", "--url", server.url]) == 0
    assert "restarts" not in json.loads(capsys.readouterr().out)
    with Connection(server.url) as connection:
        assert connection.launches() == []
