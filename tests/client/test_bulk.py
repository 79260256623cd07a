"""Folders into files of JSON lines, whatever happens under way: every image exactly once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet
import pytest
import tritonclient.grpc as grpcclient
from PIL import Image

from client import Classifier, Link
from client.bulk import classify_into
from client.cli import main
from client.errors import ModelUnavailable, OutputError, ServerUnreachable
from client.images import sample_photographs
from client.sources import expand
from export.config import Serving
from export.pipeline import export
from server.launcher import Ports, Server
from tests.conftest import FREE_PORTS, QUIET, tiny_request
from tests.export.test_repository import mounted


@pytest.fixture
def photos(tmp_path) -> Path:
    """Forty small pictures, one of them broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(40):
        Image.new("RGB", (8, 8), (number * 6, 128, 255 - number * 6)).save(folder / f"{number:02}.png")
    (folder / "17.png").write_bytes(b"nothing")
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def bulk(server, *arguments: object) -> int:
    return main(["bulk", *map(str, arguments), "--model", "tiny_onnx", "--url", server.url])


def assert_whole(path: Path, photos: Path) -> None:
    """Each image once, with what the server says of it alone."""
    assert sorted(entry["image"] for entry in lines(path)) == sorted(map(str, photos.iterdir()))
    for entry in lines(path):
        assert ("error" in entry) == entry["image"].endswith("17.png")


def test_every_image_has_a_line(server, photos, tmp_path, capsys):
    output = tmp_path / "answers.jsonl"
    assert bulk(server, photos, "--output", output) == 1
    assert f"{output}: 40 images, 1 unreadable, as their records say" in capsys.readouterr().err
    assert_whole(output, photos)
    with Classifier(server.url, "tiny_onnx") as classifier:
        for entry in lines(output)[:3]:
            assert [one["index"] for one in entry["predictions"]] == [one.index for one in classifier.classify(entry["image"])]


def test_a_second_run_asks_nothing_again(server, photos, tmp_path, capsys):
    output = tmp_path / "answers.jsonl"
    bulk(server, photos, "--output", output)
    before = output.read_bytes()
    assert bulk(server, photos, "--output", output) == 0
    assert output.read_bytes() == before
    assert "40 images, 40 of them from earlier runs" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [0, 1, 1000, -1, -30])
def test_a_file_that_was_cut_off_anywhere_is_gone_on_with(server, photos, tmp_path, kept):
    output = tmp_path / "answers.jsonl"
    bulk(server, photos, "--output", output)
    output.write_bytes(output.read_bytes()[:kept])
    bulk(server, photos, "--output", output)
    assert_whole(output, photos)


def test_a_file_of_something_else_is_left_alone(server, photos, tmp_path, capsys):
    output = tmp_path / "notes.txt"
    output.write_text("dear diary\n")
    assert bulk(server, photos, "--output", output) == 73
    assert "holds something else" in capsys.readouterr().err
    assert output.read_text() == "dear diary\n"
    output.write_text('{"image": "x.png", "model": "other"}\n')
    assert bulk(server, photos, "--output", output) == 73
    assert "holds answers of other, not of tiny_onnx" in capsys.readouterr().err


def test_a_server_that_is_killed_and_started_again(repository, photos, tmp_path):
    """The run waits for it and goes on; every image is answered exactly once."""
    output = tmp_path / "answers.jsonl"
    notes: list[str] = []
    ports = FREE_PORTS.resolve("127.0.0.1")
    first = Server(repository, ports=ports, only=["tiny_onnx"])
    first.__enter__()
    killed, finished = threading.Event(), threading.Event()
    second = Server(repository, ports=Ports(ports.grpc, ports.http, ports.metrics), only=["tiny_onnx"])

    def restart():
        killed.wait(60)
        with second:
            finished.wait(60)  # the kernel ends a server with the thread that started it

    restarting = threading.Thread(target=restart)
    restarting.start()

    def progress(tally):
        if tally.answered >= 10 and not killed.is_set():
            assert first._process is not None
            first._process.kill()
            first.stop()
            killed.set()

    try:
        link = Link(retries=0)
        with Classifier(first.url, "tiny_onnx", link=link) as classifier:
            tally = classify_into(
                output, lambda: expand([str(photos)]), classifier, top=1, patience_s=60, batch=1, progress=progress, note=notes.append
            )
    finally:
        finished.set()
        restarting.join()
    assert (tally.answered, tally.unreadable, tally.refused) == (40, 1, 0)
    assert_whole(output, photos)
    assert "Waiting 60 s for it." in notes[0] and notes[-1] == "It is back."


def test_a_server_that_does_not_come_back(repository, photos, tmp_path):
    output = tmp_path / "answers.jsonl"
    with Server(repository, ports=FREE_PORTS, only=["tiny_onnx"]) as server:
        classifier = Classifier(server.url, "tiny_onnx", link=Link(retries=0))
    with classifier, pytest.raises(ServerUnreachable):
        classify_into(output, lambda: expand([str(photos)]), classifier, top=1, patience_s=0.5)


def test_a_model_that_is_unloaded_under_way(repository, photos, tmp_path):
    """The run ends with what was answered; when the model is back, the next goes on."""
    output = tmp_path / "answers.jsonl"
    with (
        Server(repository, ports=FREE_PORTS, only=["tiny_onnx"], control=True) as server,
        grpcclient.InferenceServerClient(server.url) as operator,
        Classifier(server.url, "tiny_onnx") as classifier,
    ):

        def progress(tally):
            if tally.answered == 10:
                operator.unload_model("tiny_onnx")

        def run(**options):
            return classify_into(output, lambda: expand([str(photos)]), classifier, top=1, patience_s=60, batch=1, in_flight=1, **options)

        with pytest.raises(ModelUnavailable, match="tiny_onnx"):
            run(progress=progress)
        assert 10 <= len(lines(output)) < 40
        operator.load_model("tiny_onnx")
        run()
    assert_whole(output, photos)


def parquet(folder: Path) -> list[dict]:
    return pyarrow.parquet.read_table(folder).to_pylist()


def test_parquet_says_what_json_lines_say(server, photos, tmp_path, monkeypatch):
    """In several files, since one holds a limited number of rows."""
    monkeypatch.setattr("client.records._ROWS", 16)
    bulk(server, photos, "--output", tmp_path / "answers.jsonl")
    assert bulk(server, photos, "--output", tmp_path / "answers.parquet") == 1
    assert len(list((tmp_path / "answers.parquet").iterdir())) == 3
    expected = {entry["image"]: entry for entry in lines(tmp_path / "answers.jsonl")}
    rows = parquet(tmp_path / "answers.parquet")
    assert len(rows) == len(expected) == 40
    for row in rows:
        entry = expected[row["image"]]
        assert row["error"] == entry.get("error")
        for one, other in zip(row["predictions"] or [], entry.get("predictions", []), strict=True):
            assert one == other | {"probability": pytest.approx(other["probability"], rel=1e-6)}


def test_a_killed_parquet_run_is_gone_on_with(server, photos, tmp_path, monkeypatch):
    """What was not in a file yet is asked again, and what a kill left of a file is no answer."""
    monkeypatch.setattr("client.records._ROWS", 16)
    output = tmp_path / "answers.parquet"
    bulk(server, photos, "--output", output)
    (output / "part-00001.parquet").rename(output / "part-00001.unfinished")
    assert len(parquet(output / "part-00000.parquet")) == 16
    bulk(server, photos, "--output", output)
    rows = [row for path in output.glob("*.parquet") for row in parquet(path)]
    assert sorted(row["image"] for row in rows) == sorted(map(str, photos.iterdir()))
    assert bulk(server, photos, "--output", output) == 0


def test_parquet_on_a_full_disk(server, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("client.records._ROWS", 8)
    with mounted(tmp_path / "disk", "size=8k"):
        assert bulk(server, photos, "--output", tmp_path / "disk" / "answers.parquet") == 73
        err = capsys.readouterr().err
        assert "cannot be written" in err and "No space left on device" in err and err.count("\n") == 1
        whole = [len(parquet(path)) for path in (tmp_path / "disk" / "answers.parquet").iterdir()]
        assert whole and set(whole) == {8}


def test_parquet_of_another_model_is_left_alone(server, photos, tmp_path, capsys):
    output = tmp_path / "answers.parquet"
    assert main(["bulk", str(photos), "--output", str(output), "--model", "tiny_torchscript", "--url", server.url]) == 1
    assert bulk(server, photos, "--output", output) == 73
    assert "holds answers of tiny_torchscript, not of tiny_onnx" in capsys.readouterr().err
    (output / "part-00007.parquet").write_bytes(b"nothing")
    assert bulk(server, photos, "--output", output) == 73
    assert "holds something else" in capsys.readouterr().err


def test_what_a_full_queue_refuses_is_asked_again_by_the_next_run(photos, tmp_path, capsys):
    """One request may wait, and it waits 50 ms for company: of sixteen at once, most are refused."""
    repository, output = tmp_path / "models", tmp_path / "answers.jsonl"
    serving = Serving(max_batch=4, queue_size=1, queue_delay_us=50_000)
    export(tiny_request(repository, serving=serving), QUIET)
    with Server(repository, ports=FREE_PORTS) as server:
        command = ["bulk", str(photos), "--output", str(output), "--url", server.url, "--batch", "1"]
        assert main([*command, "--in-flight", "16"]) == 1
        assert "refused by the server and left for the next run" in capsys.readouterr().err
        assert 0 < len(lines(output)) < 40
        assert main([*command, "--in-flight", "1"]) in (0, 1)
        assert "refused" not in capsys.readouterr().err
    assert_whole(output, photos)


def test_ctrl_c_and_going_on(server, photos, tmp_path):
    """In a process of its own, with pictures that take long enough to be interrupted."""
    for number in range(400):
        shutil.copy(sample_photographs()[0], photos / f"large{number:03}.jpg")
    output = tmp_path / "answers.jsonl"
    command = [sys.executable, "-m", "client", "bulk", str(photos), "--output", str(output), "--model", "tiny_onnx", "--url", server.url]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not output.exists() or output.stat().st_size < 2000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run again to go on" in err and "Traceback" not in err
    first = lines(output)
    assert 0 < len(first) < 440
    assert subprocess.run(command, capture_output=True).returncode in (0, 1)
    assert lines(output)[: len(first)] == first
    assert_whole(output, photos)


def test_a_full_disk(server, photos, tmp_path, capsys):
    disk = tmp_path / "disk"
    with mounted(disk, "size=8k"):
        assert bulk(server, photos, "--output", disk / "answers.jsonl") == 73
        err = capsys.readouterr().err
        assert "cannot be written: No space left on device" in err and err.count("\n") == 1
        shutil.copy(disk / "answers.jsonl", tmp_path / "answers.jsonl")
    bulk(server, photos, "--output", tmp_path / "answers.jsonl")
    assert_whole(tmp_path / "answers.jsonl", photos)


def test_an_output_that_cannot_be_made(server, photos, tmp_path):
    assert bulk(server, photos, "--output", tmp_path / "nowhere" / "answers.jsonl") == 73
    with Classifier(server.url, "tiny_onnx") as classifier, pytest.raises(OutputError, match="cannot be read"):
        classify_into(tmp_path, list, classifier, top=1, patience_s=0)


def test_standard_input_cannot_be_begun_again(server, tmp_path, capsys):
    assert bulk(server, "-", "--output", tmp_path / "answers.jsonl") == 1
    assert "standard input can be read once" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_number_of_images(server, tmp_path):
    """Four thousand images take what four hundred do; the README has the figure for 200,000.

    VmHWM, because a process inherits the peak of getrusage from the one that started it, which is this one.
    """
    picture = tmp_path / "one.png"
    Image.new("RGB", (8, 8)).save(picture)
    peaks = []
    for count in (400, 4000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            os.link(picture, folder / f"{number}.png")
        code = (
            "import re, sys; from client.cli import main; main(sys.argv[1:]); "
            "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
        )
        command = [
            sys.executable,
            "-c",
            code,
            "bulk",
            folder,
            "--output",
            tmp_path / f"{count}.jsonl",
            "--model",
            "tiny_onnx",
            "--top",
            "1",
        ]
        result = subprocess.run([*map(str, command), "--url", server.url], capture_output=True, text=True, check=True)
        peaks.append(int(result.stdout) / 1024)
        assert len(lines(tmp_path / f"{count}.jsonl")) == count
    assert peaks[1] - peaks[0] < 15
