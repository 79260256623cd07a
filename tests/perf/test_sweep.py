"""Sweeps with the real perf_analyzer on a real server, and what happens to them under way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.errors import ServerUnreachable
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.perf import load
from seresnext101_triton.perf.cli import main
from seresnext101_triton.perf.load import LoadGenerator
from seresnext101_triton.perf.records import Load
from seresnext101_triton.perf.serving import serving
from seresnext101_triton.perf.sweep import LoadGrid
from seresnext101_triton.server.launcher import Server
from tests.conftest import FREE_PORTS

# More concurrencies than can be measured before the sweep is killed or interrupted.
MANY = ",".join(map(str, range(1, 33)))


@pytest.fixture(autouse=True)
def any_windows_agree(monkeypatch):
    """Nothing here depends on stable measurements, which a loaded machine gives after a minute."""
    monkeypatch.setattr(load, "_AGREEMENT", load._NO_AGREEMENT)


def sweep(server, results: Path, *arguments: str) -> int:
    http = f"127.0.0.1:{server.ports.http}"
    common = ["--url", server.url, "--http-url", http, "--results", str(results), "--window", "0.1"]
    return main(["sweep", "--model", "tiny_onnx", *common, *arguments])


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_load_is_measured_and_explained(server, tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    assert (
        sweep(
            server, results, "--concurrency", "1,2", "--protocols", "grpc,http", "--shared-memory"
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "tiny_onnx, HTTP, shared memory" in out
    found = records(results)
    assert len(found) == 8
    for record in found:
        assert record["throughput"] > 0
        assert 0 < record["latency"]["p50"] <= record["latency"]["p90"] <= record["latency"]["p99"]
        assert 0 < record["phases"]["compute"] <= sum(record["phases"].values())
        assert record["server"]["mean_batch"] >= 1
        # test_load.py checks these two shares against clocks. Here: this program takes less than
        # the whole machine.
        assert record["generator_cpu"] > 0 and 0 <= record["harness_cpu"] < 1
        assert record["model"]["weights"] == "seeded" and "tiny_onnx" in record["model"]["config"]
        assert record["machine"]["cores"] >= 1 and record["versions"]["numpy"]
    header, *rows = results.with_suffix(".csv").read_text().splitlines()
    assert "latency.p99" in header and len(rows) == 8


def test_a_second_run_measures_only_what_is_missing(server, tmp_path):
    results = tmp_path / "results.jsonl"
    with Classifier(server.url, "tiny_onnx") as classifier:  # not counted: it was before
        classifier.infer(np.stack([classifier.prepare(path) for path in sample_photographs()]))
    sweep(server, results, "--concurrency", "1")
    first = records(results)
    assert first[0]["server"]["mean_batch"] == 1
    sweep(server, results, "--concurrency", "1,2")
    assert records(results)[:1] == first
    assert [record["load"]["concurrency"] for record in records(results)] == [1, 2]
    sweep(server, results, "--concurrency", "1", "--again")
    assert [record["load"]["concurrency"] for record in records(results)] == [1, 2, 1]


def test_a_model_without_a_batcher(server, tmp_path):
    """Triton counts one inference for a request of four images; images are what is reported."""
    results = tmp_path / "results.jsonl"
    common = ["--url", server.url, "--results", str(results), "--window", "0.1"]
    assert (
        main(
            ["sweep", "--model", "tiny_openvino", "--concurrency", "1", "--batches", "1,4", *common]
        )
        == 0
    )
    one, four = records(results)
    for record, batch in ((one, 1), (four, 4)):
        in_flight = record["throughput"] * sum(record["phases"].values()) / 1000  # Little's law
        assert batch / 2 < in_flight < batch * 2


def test_request_rates(server, tmp_path):
    """The server counts no more requests than the rate allows in the time of this test's clock."""
    results = tmp_path / "results.jsonl"
    with triton.InferenceServerClient(server.url) as counting:

        def images() -> int:
            return int(
                counting.get_inference_statistics("tiny_onnx").model_stats[0].inference_count
            )

        before, started = images(), time.monotonic()
        assert sweep(server, results, "--rates", "20", "--window", "0.5") == 0
        sent, elapsed = images() - before, time.monotonic() - started
    (record,) = records(results)
    assert record["throughput"] > 0
    assert sent <= 20 * elapsed + 10  # those that warm the model up, and the first
    assert (record["load"]["rate"], record["load"]["concurrency"]) == (20, 0)


def test_the_server_that_it_starts_is_watched(repository, tmp_path):
    """Cores and memory are known of one's own server only."""
    results = tmp_path / "results.jsonl"
    command = [
        "sweep",
        "--repository",
        str(repository),
        "--model",
        "tiny_onnx",
        "--concurrency",
        "8",
        "--window",
        "0.1",
    ]
    assert main([*command, "--results", str(results)]) == 0
    (record,) = records(results)
    # The kernel counts processor time in steps.
    assert 0 < record["server"]["cores"] <= (os.cpu_count() or 1) + 0.5
    # A tritonserver with a stub holds more on every machine, also where memory is reclaimed.
    assert record["server"]["memory_mib"] > 20
    assert 1 <= record["server"]["mean_batch"] <= 4


def test_models_and_servers_that_are_not_there(server, tmp_path, capsys):
    common = ["--results", str(tmp_path / "r.jsonl")]
    assert main(["sweep", "--url", server.url, "--model", "nothing", *common]) == 1
    assert "does not serve nothing: choose from" in capsys.readouterr().err
    assert main(["sweep", "--url", "127.0.0.1:1", "--model", "tiny_onnx", *common]) == 69
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize("victim", ["perf_analyzer", "server"])
def test_what_is_killed_under_way(repository, tmp_path, capsys, victim):
    """One line names the process that was killed, and the points measured before are kept.

    There are so many loads that the sweep cannot be done before the kill.
    """
    results = tmp_path / "results.jsonl"
    over = threading.Event()
    with Server(repository, ports=FREE_PORTS, only=["tiny_onnx"]) as server:

        def kill() -> None:
            while not over.is_set():
                if results.exists() and (running := analyzers()):
                    (running[0] if victim == "perf_analyzer" else psutil.Process(server.pid)).kill()
                    return
                time.sleep(0.02)

        killer = threading.Thread(target=kill)
        killer.start()
        code = sweep(server, results, "--concurrency", MANY)
        over.set()
        killer.join()
    err = capsys.readouterr().err
    assert code in (1, 69)
    assert err.splitlines()[-1].startswith("error: ")
    if victim == "perf_analyzer":
        assert "perf_analyzer was ended by SIGKILL. Run again to go on" in err
    assert len(records(results)) >= 1


def test_a_server_that_goes_between_two_questions(repository):
    with serving(repository, ["tiny_onnx"]) as gone:
        pass
    with pytest.raises(ServerUnreachable, match="no longer says what it did"):
        gone.counters("tiny_onnx")


def test_ctrl_c_keeps_what_is_done(server, tmp_path):
    results = tmp_path / "results.jsonl"
    command = [
        sys.executable,
        "-m",
        "perf",
        "sweep",
        "--url",
        server.url,
        "--model",
        "tiny_onnx",
        "--concurrency",
        MANY,
    ]
    process = subprocess.Popen(
        [*command, "--window", "0.1", "--results", results], stderr=subprocess.PIPE, text=True
    )
    left: list[psutil.Process] = []
    while not (results.exists() and left):
        assert process.poll() is None
        left = analyzers(process.pid)
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "interrupted; what was measured is kept" in err and "Traceback" not in err
    assert 1 <= len(records(results)) < len(MANY.split(","))
    psutil.wait_procs(left)  # its parent has waited for it, or ended before
    assert not [each for each in left if each.is_running()]


def test_every_combination_is_a_load():
    assert LoadGrid(["a"]).loads() == [Load("a")]
    assert len(LoadGrid(["a", "b"], [1, 8], [1, 2, 4], protocols=["grpc", "http"]).loads()) == 24
    assert [load.rate for load in LoadGrid(["a"], [1], [1, 2], rates=[5.0]).loads()] == [5.0]


def test_photographs_are_what_is_sent(server):
    with LoadGenerator(server.url) as generator:
        content = json.loads(generator._input_of("tiny_onnx", 1)[0].read_text())
    assert len({entry["INPUT__0"]["b64"] for entry in content["data"]}) == len(content["data"]) > 1
    assert str(Load("m", 8, 4)) == "m, batch 8, concurrency 4, grpc"


def analyzers(pid: int | None = None) -> list[psutil.Process]:
    """The running perf_analyzers that a process has started, by default this one.

    One that has ended and whose parent has not waited for it yet is left out.
    """
    found = psutil.Process(pid).children(recursive=True)
    return [each for each in found if _runs(each)]


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.name() == "perf_analyzer" and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
