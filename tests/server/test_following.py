"""A server that follows its repository: good and broken versions come under load."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from seresnext101_triton.client import Connection
from seresnext101_triton.export.operations import promote, roll_back
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.server import cli
from seresnext101_triton.server.following import Follower
from seresnext101_triton.server.launcher import Server
from tests.conftest import FREE_PORTS
from tests.versions import (
    ARTIFACT,
    MODEL,
    Caller,
    answer_of,
    overflowing,
    publish_again,
    versions_of_one_model,
)

DEADLINE_S = 300


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return versions_of_one_model(tmp_path_factory.mktemp("followed") / "models", 2)


@pytest.fixture
def root(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "models"))


class Followed:
    """A server with its follower, which looks from a thread as the command line does."""

    def __init__(self, server: Server, notes: list[str]) -> None:
        self.server, self.notes = server, notes

    def wait_for(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not happened():
            assert time.monotonic() < deadline, self.notes
            time.sleep(0.05)

    def ready(self, model: str = MODEL) -> list[str]:
        states = self.server.control.index()
        return [each.version for each in states if (each.name, each.state) == (model, "READY")]


@contextmanager
def followed(root: Path) -> Iterator[Followed]:
    notes: list[str] = []
    server = Server(root, ports=FREE_PORTS, follow=True, note=notes.append)
    follower, end = Follower(server, notes.append), threading.Event()
    with server:

        def look() -> None:
            while not end.wait(0.1):
                follower.check()

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield Followed(server, notes)
        finally:
            end.set()
            thread.join()


def test_versions_come_under_load_and_broken_ones_do_not(root):
    """No request fails, and each answer is that of a version that was published intact."""
    answers = {1: answer_of(root, 1), 2: answer_of(root, 2)}
    with followed(root) as running:
        caller = Caller(running.server.url, answers)
        with caller.calling():
            publish_again(root, 1, truncated=True)  # version 3
            running.wait_for(lambda: any("version 2 still served" in x for x in running.notes))
            assert running.ready() == ["2"]
            assert "model.onnx has 1000 bytes" in running.notes[-1]

            publish_again(root, 1, dims=999)  # version 4
            running.wait_for(lambda: sum("still served" in x for x in running.notes) == 2)
            assert running.ready() == ["2"]
            assert "and the artifact has [1000]" in running.notes[-1]
            with Connection(running.server.url) as connection:
                assert connection.is_ready()

            publish_again(root, 1)  # version 5
            running.wait_for(lambda: running.ready() == ["5"])
            promote(root, MODEL, to=2)
            assert running.ready() == ["2"]
        assert caller.errors == [] and set(caller.seen) == {1, 2}
        running.server.control.reload(MODEL)
        assert running.ready() == ["2"]


def test_the_old_version_is_served_also_after_a_restart(root):
    """A model that is loaded again gets the version that was served, not the policy's."""
    with followed(root) as running:
        publish_again(root, 1, dims=999)
        running.wait_for(lambda: any("version 2 still served" in x for x in running.notes))
        running.server.control.reload(MODEL)
        assert running.ready() == ["2"]
        assert roll_back(root, MODEL).version == 2
        assert roll_back(root, MODEL).version == 1
        assert running.ready() == ["1"]


def test_a_version_that_is_ready_and_answers_nan_is_not_kept(root):
    with followed(root) as running:
        publish_again(root, 1, other=overflowing(root / MODEL / "1" / ARTIFACT))  # version 3
        running.wait_for(lambda: any("version 2 still served" in x for x in running.notes))
        assert "version 3 of model 'tiny_onnx' was loaded at " in running.notes[-1]
        assert "the model answers nan for a class" in running.notes[-1]
        running.wait_for(lambda: running.ready() == ["2"])
        running.server.control.reload(MODEL)
        assert running.ready() == ["2"]

        # A model that is new has no version to stay with, and is unloaded.
        shutil.copytree(root / MODEL, root.parent / "other")
        config = root.parent / "other" / "config.pbtxt"
        config.write_text(config.read_text().replace(MODEL, "other"))
        (root.parent / "other").rename(root / "other")
        running.wait_for(lambda: "model other: not served, because version 3" in running.notes[-1])
        assert running.ready("other") == [] and running.ready() == ["2"]


def test_a_new_model_is_served_and_a_damaged_one_is_not(root):
    with followed(root) as running:
        shutil.copytree(root / MODEL, root.parent / "other")
        config = root.parent / "other" / "config.pbtxt"
        config.write_text(config.read_text().replace(MODEL, "other"))
        (root.parent / "other").rename(root / "other")
        running.wait_for(lambda: running.ready("other") == ["2"])
        assert running.ready() == ["2"]


def test_a_start_with_a_damaged_version_takes_the_one_before(root):
    artifact = root / MODEL / "2" / "model.onnx"
    artifact.write_bytes(artifact.read_bytes()[:1000])
    with followed(root) as running:
        assert running.ready() == ["1"]
        assert "version 1 is served, because version 2 is not as it was" in running.notes[0]


def test_two_versions_of_one_model_side_by_side(root):
    names = [f"{MODEL}@1", f"{MODEL}@2"]
    with (
        Server(root, ports=FREE_PORTS, only=names) as server,
        Connection(server.url) as connection,
    ):
        assert connection.ready_models() == names
        for number in (1, 2):
            caller = Caller(server.url, {number: answer_of(root, number)})
            assert caller.ask(connection, connection.describe(f"{MODEL}@{number}")) == number
    assert Repository(root).versions(MODEL) == [1, 2]


def test_the_command_line_follows_what_its_command_publishes(root, capfd):
    """The command publishes a version, and waits until the server answers with it."""
    script = (
        "import time, sys; from pathlib import Path; from tests.versions import *;"
        f"root = Path({str(root)!r}); number = publish_again(root, 1);"
        "connection = Connection(os.environ['TRITON_URL']);"
        "\nwhile connection.describe(MODEL).version != str(number): time.sleep(0.1)"
    )
    code = cli.main(
        [
            *("--repository", str(root), "--model", MODEL, "--follow"),
            *("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"),
            *("--", sys.executable, "-c", f"import os; {script}"),
        ]
    )
    assert code == 0
    assert f"model {MODEL}: version 3 served now (before: version 2)" in capfd.readouterr().out
