"""Images in Ray datasets, and `bulk` on a Ray cluster: the answers of `Classifier`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from seresnext101_triton.client import Classifier, TransportOptions, ray_engine
from seresnext101_triton.client.bulk import BulkOptions
from seresnext101_triton.client.cli import main
from seresnext101_triton.client.errors import ClientError, ServerUnreachable, UsageError
from seresnext101_triton.client.ray import ClassifyImages
from seresnext101_triton.client.ray_engine import cluster
from tests.client.ray_nodes import ENVIRONMENT, nodes
from tests.conftest import FREE_PORTS

RAY = Path(sys.prefix, "ray")
# Written by users; Ray is not on the path of the tests themselves.
PIPELINE = """
import json, sys
import ray
from seresnext101_triton.client.ray import ClassifyImages

ray.init(sys.argv[1], log_to_driver=False)
rows = ray.data.read_binary_files(sys.argv[3], include_paths=True).map_batches(
    ClassifyImages,
    fn_constructor_kwargs={"url": sys.argv[2], "model": "tiny_onnx", "column": "bytes"},
    batch_format="pyarrow",
    compute=ray.data.ActorPoolStrategy(size=1),
)
with open(sys.argv[4], "w") as file:
    json.dump(rows.take_all(), file)
"""


def test_a_head_that_is_gone_is_told_wherever_the_command_waits(monkeypatch):
    monkeypatch.setattr(ray_engine, "_HEAD_LOOK_S", 0.01)
    monkeypatch.setattr(ray_engine, "_HEAD_AWAY_S", 0.1)
    before, head = signal.getsignal(signal.SIGUSR1), ray_engine._Head()
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            head.watch(address)
            time.sleep(0.3)  # it answers, and nothing is raised
        with pytest.raises(ClientError, match=f"head of the Ray cluster at {address} does not"):
            time.sleep(60)
        assert head.is_gone
    finally:
        head.close()
        signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twenty small pictures, one of them broken, and a name that is not UTF-8."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(20):
        pixels = random.integers(0, 256, (70, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (folder / "17.png").write_bytes(b"nothing")
    (folder / "18.png").rename(folder / os.fsdecode(b"\xe9.png"))
    return folder


def expected(server, names) -> list[list[dict] | None]:
    with Classifier(server.url, "tiny_onnx") as classifier:
        stream = classifier.stream(names, batch=1)
        return [
            None if answer.error else [asdict(one) for one in answer.predictions]
            for answer in stream
        ]


def agree(found, wanted) -> bool:
    """Whether predictions are the same, but for what a batch of another size changes."""
    return (found is None) == (wanted is None) and all(
        one["index"] == other["index"]
        and one["probability"] == pytest.approx(other["probability"], rel=1e-4)
        for one, other in zip(found or [], wanted or [], strict=True)
    )


def test_each_row_gets_its_answer(server, photos):
    names = [str(photos / f"{number:02}.png") for number in (3, 17, 1, 3)]
    table = pyarrow.table({"id": [7, 8, 9, 10], "path": names, "error": ["old"] * 4})
    classify = ClassifyImages(server.url, "tiny_onnx", column="path")
    answered = classify(table)
    rows = answered.to_pylist()
    assert answered.column_names[:2] == ["id", "path"]
    assert [row["id"] for row in rows] == [7, 8, 9, 10] and [row["path"] for row in rows] == names
    for row, wanted in zip(rows, expected(server, names), strict=True):
        assert agree(row["predictions"], wanted)
    assert [row["error"] is None for row in rows] == [True, False, True, True]
    assert "17.png is not an image that Pillow can read" in rows[1]["error"]
    assert {(row["model"], row["version"], row["refused"]) for row in rows} == {
        ("tiny_onnx", "1", False)
    }
    empty = classify(table.slice(0, 0))
    assert empty.schema == answered.schema and not len(empty)


def test_contents_of_files_do_not_stay_in_the_rows(server, photos):
    contents = [(photos / "03.png").read_bytes(), None, b"nothing"]
    classify = ClassifyImages(server.url, "tiny_onnx", options=BulkOptions(60, top=1))
    answered = classify(pyarrow.table({"image": pyarrow.array(contents, pyarrow.binary())}))
    assert "image" not in answered.column_names
    first, second, third = answered.to_pylist()
    wanted = expected(server, [str(photos / "03.png")])[0]
    assert wanted and agree(first["predictions"], wanted[:1])
    assert "a NoneType is no image" in second["error"] and "7 bytes" in third["error"]


def test_what_the_server_refuses_is_told_apart(server, photos, monkeypatch):
    classify = ClassifyImages(server.url, "tiny_onnx", options=BulkOptions(60, batch=1))
    name = str(photos / "03.png")
    monkeypatch.setattr(Classifier, "prepare", lambda self, image: np.zeros((3, 5, 5), np.float32))
    (row,) = classify(pyarrow.table({"image": [name]})).to_pylist()
    assert row["refused"] and row["predictions"] is None and "[1,3,5,5]" in row["error"]


@pytest.mark.parametrize("batch", [{"image": ["a.png"]}, pyarrow.table({"path": ["a.png"]})])
def test_another_batch_is_a_usage_error(server, batch):
    with pytest.raises(UsageError, match="batch_format"):
        ClassifyImages(server.url, "tiny_onnx")(batch)


def test_a_server_that_does_not_come_is_waited_for_in_vain(photos):
    url = f"127.0.0.1:{FREE_PORTS.resolve('127.0.0.1').grpc}"
    link = TransportOptions(retries=0, timeout_s=1)
    classify = ClassifyImages(url, "m", options=BulkOptions(0.2), transport_options=link)
    with pytest.raises(ServerUnreachable):
        classify(pyarrow.table({"image": [str(photos / "03.png")]}))


def test_without_ray_one_line_says_how_to_get_it(server, photos, tmp_path, capsys):
    assert bulk(server, photos, "--output", tmp_path / "a.jsonl", "--engine", "ray") == 1
    err = capsys.readouterr().err
    assert err.startswith("error: --engine ray needs Ray") and err.count("\n") == 1
    assert "[ray]" in err and not (tmp_path / "a.jsonl").exists()


def test_options_of_ray_need_ray(server, photos, tmp_path, capsys):
    assert bulk(server, photos, "--output", tmp_path / "a.jsonl", "--workers", 2) == 2
    assert "--engine ray" in capsys.readouterr().err


def bulk(server, *arguments: object) -> int:
    return main(["bulk", *map(str, arguments), "--model", "tiny_onnx", "--url", server.url])


@pytest.fixture(scope="module")
def folder():
    """A folder with a short path, for Ray's sockets. Nothing of Ray is outside of it."""
    with tempfile.TemporaryDirectory(prefix="ray-") as name:
        yield Path(name)


def run(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with Ray on its path, and a home folder and a folder for temporary files here."""
    assert RAY.is_dir(), "Ray is not installed: `make .venv/ray`"
    path = os.pathsep.join((str(Path(__file__).parents[2]), str(RAY)))
    places = {"PYTHONPATH": path, "TMPDIR": str(folder), "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | places | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def on_ray(folder: Path, server, photos: Path, output: Path, *arguments: object, **environment):
    command = ("-m", "client", "bulk", photos, "--output", output, "--engine", "ray")
    options = ("--model", "tiny_onnx", "--url", server.url, *arguments)
    return run(folder, *command, *options, **environment)


def test_a_cluster_of_its_own_leaves_only_answers(server, photos, folder, tmp_path):
    output = tmp_path / "answers.jsonl"
    before = set(folder.iterdir())
    first = on_ray(folder, server, photos, output)
    said = f"{output}: 20 images, 1 unreadable, as their records say\n"
    assert first.stderr == said
    assert (first.returncode, first.stdout) == (1, "")
    assert set(folder.iterdir()) == before
    lines = {one["image"]: one for one in map(json.loads, output.read_text().splitlines())}
    names = [os.fsdecode(path) for path in photos.iterdir()]
    assert sorted(lines) == sorted(names) and len(output.read_text().splitlines()) == len(names)
    for name, wanted in zip(names, expected(server, names), strict=True):
        assert agree(lines[name].get("predictions"), wanted)
    assert all(RAY.name not in each.name() for each in psutil.Process().children(recursive=True))


def test_a_cluster_that_runs_answers_bulk_and_pipelines(server, photos, folder, tmp_path):
    """A run of the other engine is continued, and a pipeline of a user has the same answers."""
    output = tmp_path / "answers.parquet"
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(photos / "03.png", few)
    assert bulk(server, photos / "03.png", "--output", output) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(RAY))
        patch.setenv("HOME", str(folder))
        with nodes(folder / "n", others=0, cpus=2) as cluster:
            address = "--ray-address", cluster.address
            on_cluster = on_ray(folder, server, photos, output, *address, **ENVIRONMENT)
            assert on_cluster.returncode == 1, on_cluster.stderr
            assert "20 images, 1 of them from earlier runs, 1 unreadable" in on_cluster.stderr
            user = run(
                folder,
                *("-c", PIPELINE, cluster.address, server.url, few, tmp_path / "user.json"),
                **ENVIRONMENT,
            )
            assert user.returncode == 0, user.stderr
    rows = pyarrow.parquet.read_table(output).to_pylist()
    assert len(rows) == 20 == len({row["image"] for row in rows})
    (entry,) = json.loads((tmp_path / "user.json").read_text())
    assert entry["path"].endswith("few/03.png") and "bytes" not in entry
    (row,) = [row for row in rows if row["image"].endswith("03.png")]
    assert agree(entry["predictions"], row["predictions"])


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there_is_told_at_once(address):
    """Ray itself would try for minutes, without a word."""
    with pytest.raises(ClientError, match=f"^Ray cannot be used at {address}: "), cluster(address):
        pass
