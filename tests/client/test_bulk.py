"""Folders into files of JSON lines, whatever happens under way: every image exactly once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet
import pytest
import tritonclient.grpc as grpcclient
from PIL import Image

from seresnext101_triton.client import Classifier, TransportOptions, commands
from seresnext101_triton.client.bulk import BulkEvents, BulkOptions, classify_into
from seresnext101_triton.client.cli import main
from seresnext101_triton.client.errors import ModelUnavailable, OutputError, ServerUnreachable
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.client.progress import progress
from seresnext101_triton.client.records import records_at
from seresnext101_triton.client.sources import expand
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.serving import Serving
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.ports import Ports
from tests.conftest import FREE_PORTS, QUIET, tiny_request
from tests.export.test_repository import mounted


@pytest.fixture
def photos(tmp_path) -> Path:
    """Forty small pictures, one of them broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(40):
        Image.new("RGB", (8, 8), (number * 6, 128, 255 - number * 6)).save(
            folder / f"{number:02}.png"
        )
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
        for entry in [entry for entry in lines(output) if "error" not in entry][:3]:
            assert [one["index"] for one in entry["predictions"]] == [
                one.index for one in classifier.classify(entry["image"])
            ]


def test_a_second_run_asks_nothing_again(server, photos, tmp_path, capsys):
    output = tmp_path / "answers.jsonl"
    bulk(server, photos, "--output", output)
    before = output.read_bytes()
    assert bulk(server, photos, "--output", output) == 1
    assert output.read_bytes() == before
    said = "40 images, 40 of them from earlier runs, 1 of these unreadable, which are tried again"
    assert said in capsys.readouterr().err
    readable = [line for line in before.decode().splitlines() if '"error":' not in line]
    output.write_text("".join(f"{line}\n" for line in readable))
    shutil.copy(photos / "16.png", photos / "17.png")
    assert bulk(server, photos, "--output", output) == 0
    assert len(lines(output)) == 40 and not any("error" in entry for entry in lines(output))


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
    second = Server(
        repository, ports=Ports(ports.grpc, ports.http, ports.metrics), only=["tiny_onnx"]
    )

    def restart():
        killed.wait(600)
        with second:
            finished.wait(600)  # the kernel ends a server with the thread that started it

    restarting = threading.Thread(target=restart)
    restarting.start()

    def progress(tally):
        if tally.answered >= 10 and not killed.is_set():
            os.kill(first.pid, signal.SIGKILL)
            first.stop()
            killed.set()

    try:
        link = TransportOptions(retries=0)
        with Classifier(first.url, "tiny_onnx", transport_options=link) as classifier:
            options, events = (
                BulkOptions(patience_s=60, top=1, batch=1),
                BulkEvents(progress, notes.append),
            )
            tally = classify_into(
                output, lambda: expand([str(photos)]), classifier, options, events
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
        classifier = Classifier(
            server.url, "tiny_onnx", transport_options=TransportOptions(retries=0)
        )
    with classifier, pytest.raises(ServerUnreachable):
        classify_into(
            output, lambda: expand([str(photos)]), classifier, BulkOptions(patience_s=0.5, top=1)
        )


def test_a_model_that_is_unloaded_under_way(repository, photos, tmp_path):
    """The run waits for it, and ends with what was answered; the next run goes on."""
    output = tmp_path / "answers.jsonl"
    with (
        Server(
            repository, ports=FREE_PORTS, only=["tiny_onnx"], allow=["model-repository"]
        ) as server,
        grpcclient.InferenceServerClient(server.url) as operator,
        Classifier(server.url, "tiny_onnx") as classifier,
    ):

        def progress(tally):
            if tally.answered == 10:
                operator.unload_model("tiny_onnx")

        def run(**events):
            options = BulkOptions(patience_s=2, top=1, batch=1, in_flight=1)
            return classify_into(
                output, lambda: expand([str(photos)]), classifier, options, BulkEvents(**events)
            )

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
    monkeypatch.setattr("seresnext101_triton.client.records._ROWS", 16)
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


def test_a_killed_parquet_run_is_gone_on_with(server, photos, tmp_path, monkeypatch, capsys):
    """What was not in a file yet is asked again, and what a kill left of a file is no answer."""
    monkeypatch.setattr("seresnext101_triton.client.records._ROWS", 16)
    output = tmp_path / "answers.parquet"
    bulk(server, photos, "--output", output)
    (output / "part-00001.parquet").rename(output / "part-00001.unfinished")
    assert len(parquet(output / "part-00000.parquet")) == 16
    bulk(server, photos, "--output", output)
    rows = [row for path in output.glob("*.parquet") for row in parquet(path)]
    assert sorted(row["image"] for row in rows) == sorted(map(str, photos.iterdir()))
    capsys.readouterr()
    assert bulk(server, photos, "--output", output) == 1
    assert "from earlier runs, 1 of these unreadable" in capsys.readouterr().err


def test_parquet_on_a_full_disk(server, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("seresnext101_triton.client.records._ROWS", 8)
    with mounted(tmp_path / "disk", "size=8k"):
        assert bulk(server, photos, "--output", tmp_path / "disk" / "answers.parquet") == 73
        err = capsys.readouterr().err
        assert (
            "cannot be written" in err and "No space left on device" in err and err.count("\n") == 1
        )
        whole = [len(parquet(path)) for path in (tmp_path / "disk" / "answers.parquet").iterdir()]
        assert whole and set(whole) == {8}


def test_parquet_of_another_model_is_left_alone(server, photos, tmp_path, capsys):
    output = tmp_path / "answers.parquet"
    assert (
        main(
            [
                "bulk",
                str(photos),
                "--output",
                str(output),
                "--model",
                "tiny_torchscript",
                "--url",
                server.url,
            ]
        )
        == 1
    )
    assert bulk(server, photos, "--output", output) == 73
    assert "holds answers of tiny_torchscript, not of tiny_onnx" in capsys.readouterr().err
    for part in output.iterdir():
        part.write_bytes(b"nothing")
    assert bulk(server, photos, "--output", output) == 73
    assert "holds something else" in capsys.readouterr().err


def test_what_a_full_queue_refuses_is_asked_again_by_the_next_run(photos, tmp_path, capsys):
    """The queue holds one request and a batch waits 50 ms: most of sixteen requests are refused."""
    repository, output = tmp_path / "models", tmp_path / "answers.jsonl"
    serving = Serving(max_batch=4, queue_size=1, queue_delay_us=50_000)
    export(tiny_request(repository, serving=serving), QUIET)
    with Server(repository, ports=FREE_PORTS) as server:
        command = [
            "bulk",
            str(photos),
            "--output",
            str(output),
            "--url",
            server.url,
            "--batch",
            "1",
        ]
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
    command = [
        sys.executable,
        "-m",
        "client",
        "bulk",
        str(photos),
        "--output",
        str(output),
        "--model",
        "tiny_onnx",
        "--url",
        server.url,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while not output.exists() or output.stat().st_size < 2000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
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
    with (
        Classifier(server.url, "tiny_onnx") as classifier,
        pytest.raises(OutputError, match="is a folder: name a file in it"),
    ):
        classify_into(tmp_path, list, classifier, BulkOptions(patience_s=0, top=1))


def test_standard_input_cannot_be_begun_again(server, tmp_path, capsys):
    assert bulk(server, "-", "--output", tmp_path / "answers.jsonl") == 2
    assert "standard input can be read once" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_number_of_images(server, tmp_path):
    """Four thousand images take what four hundred do; the README has the figure for 200,000.

    The test reads VmHWM, because the peak that getrusage reports is inherited from the process that
    started this one, here the test process.
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
            "import re, sys; from seresnext101_triton.client.cli import main; main(sys.argv[1:]); "
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
        result = subprocess.run(
            [*map(str, command), "--url", server.url], capture_output=True, text=True, check=True
        )
        peaks.append(int(result.stdout) / 1024)
        assert len(lines(tmp_path / f"{count}.jsonl")) == count
    assert peaks[1] - peaks[0] < 15


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_entries_that_cannot_be_read_have_records_and_are_not_asked_again(
    server, tmp_path, capsys, form
):
    """Links to nowhere and to themselves, and names of any bytes; what is left out is said."""
    folder = tmp_path / "photos"
    folder.mkdir()
    images = {folder / name for name in ("a.png", "caf\udce9.png", "two\nlines.png")}
    for image in images:
        Image.new("RGB", (8, 8)).save(image)
    (folder / "self").symlink_to("self")
    (folder / "here").symlink_to(".")
    (folder / "gone.jpg").symlink_to("nowhere")
    (folder / "notes.txt").touch()
    output = folder / f"answers.{form}"
    failed = {str(folder / "self"), str(folder / "gone.jpg"), str(tmp_path / "none*")}
    names = [folder, tmp_path / "none*", folder / "a.png"]
    assert bulk(server, *names, "--output", output) == 1
    err = capsys.readouterr().err
    assert "6 images, 3 unreadable, as their records say; left out: " in err
    assert "1 .txt" in err and "1 folder that a link leads to a second time" in err
    with records_at(output) as records:
        assert records.images("tiny_onnx", []) == failed | set(map(str, images))
    assert bulk(server, *names, "--output", output) == 1
    assert "6 images, 6 of them from earlier runs" in capsys.readouterr().err
    if form == "jsonl":
        assert {entry["image"] for entry in lines(output) if "error" in entry} == failed
        assert len(lines(output)) == 6  # an image that is named twice has one record


def test_an_answer_is_in_the_file_before_the_next_is_waited_for(server, photos, tmp_path):
    output = tmp_path / "answers.jsonl"
    seen: list[tuple[int, int]] = []

    def look(tally):
        seen.append((tally.answered, output.read_text().count("\n")))

    with Classifier(server.url, "tiny_onnx") as classifier:
        classify_into(
            output,
            lambda: expand([str(photos)]),
            classifier,
            BulkOptions(patience_s=0, top=1),
            BulkEvents(look),
        )
    assert seen == [(count, count) for count in range(41)]


def test_a_run_beside_another_is_refused(server, photos, tmp_path, capsys):
    output = tmp_path / "answers.jsonl"
    with records_at(output):
        assert bulk(server, photos, "--output", output) == 73
    err = capsys.readouterr().err
    assert f"another run writes into {output}" in err and err.count("\n") == 1


def test_a_count_that_fails_does_not_fail_the_run(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress(lambda: 1 // 0) as advance:
        advance(1)


def test_progress_counts_every_image_once(server, photos, tmp_path, monkeypatch):
    steps: list[int] = []
    expected: list[int] = []

    @contextmanager
    def noting(count) -> Iterator:
        expected.append(count())
        yield steps.append

    monkeypatch.setattr(commands, "progress", noting)
    some = sorted(photos.iterdir())[:5]
    assert bulk(server, *some, "--output", tmp_path / "o.jsonl") == 0
    assert expected == [sum(steps)] == [5] and min(steps) >= 0
    assert bulk(server, photos, "--output", tmp_path / "o.jsonl") == 1
    assert expected[1] == sum(steps) - 5 == 40 and min(steps) >= 0


# `python -m client`, and on standard output how many answers are in hand.
COUNTING = """
import sys
from seresnext101_triton.client import bulk, cli, process

take = bulk._Run.take

def counted(run, answer):
    take(run, answer)
    print(run.tally.answered, flush=True)

bulk._Run.take = counted
process.run(cli.main)
"""


def counting(*arguments: object) -> subprocess.Popen:
    environment = os.environ | {"no_proxy": "*"}
    command = [sys.executable, "-c", COUNTING, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.fixture
def silent_web():
    """A web server that takes every request and never answers one."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/a.jpg"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_signal_ends_a_run_that_hangs_in_a_download(
    server, photos, tmp_path, silent_web, number, form
):
    """What was answered is in the file."""
    output = tmp_path / f"answers.{form}"
    arguments = [
        "bulk",
        photos,
        silent_web,
        "--output",
        output,
        "--model",
        "tiny_onnx",
        "--batch",
        "1",
        "--url",
        server.url,
    ]
    with counting(*arguments) as process:
        assert process.stdout is not None
        assert "40\n" in iter(process.stdout.readline, "")
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err == f"interrupted: {output} has 40 answers; run again to go on\n"
    with records_at(output) as records:
        assert records.images("tiny_onnx", []) == set(map(str, photos.iterdir()))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_sigterm_ends_a_run_whose_server_does_not_answer(repository, photos, tmp_path, protocol):
    output = tmp_path / "answers.jsonl"
    with Server(repository, ports=FREE_PORTS, only=["tiny_onnx"]) as server:
        url = f"127.0.0.1:{server.ports.grpc if protocol == 'grpc' else server.ports.http}"
        process = counting(
            *(
                "bulk",
                photos,
                "--output",
                output,
                "--batch",
                "1",
                "--in-flight",
                "1",
                "--timeout",
                "3000",
            ),
            *("--url", url, "--protocol", protocol),
        )
        assert process.stdout is not None
        assert "5\n" in iter(process.stdout.readline, "")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=300)
        finally:
            os.kill(server.pid, signal.SIGCONT)
    assert process.returncode == 130
    assert "run again to go on" in err and "Traceback" not in err
    assert len(lines(output)) >= 5
