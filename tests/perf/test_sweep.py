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

import psutil
import pytest

from client.errors import ServerUnreachable
from export.config import Serving
from export.pipeline import export
from perf.cli import main
from perf.load import Generator, Load
from perf.serving import serving
from perf.sweep import loads
from server.launcher import Server
from tests.conftest import FREE_PORTS, QUIET, tiny_request


def sweep(server, results: Path, *arguments: str) -> int:
    http = f"127.0.0.1:{server.ports.http}"
    common = ["--url", server.url, "--http-url", http, "--results", str(results), "--window", "0.3"]
    return main(["sweep", "--model", "tiny_onnx", *common, *arguments])


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_load_is_measured_and_explained(server, tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    assert sweep(server, results, "--concurrency", "1,2", "--protocols", "grpc,http", "--shared-memory") == 0
    out = capsys.readouterr().out
    assert "tiny_onnx, HTTP, shared memory" in out
    found = records(results)
    assert len(found) == 8
    for record in found:
        assert record["throughput"] > 0
        assert 0 < record["latency"]["p50"] <= record["latency"]["p90"] <= record["latency"]["p99"]
        assert 0 < record["phases"]["compute"] < record["latency"]["p99"]
        assert record["server"]["mean_batch"] >= 1
        assert record["harness_cpu"] < 0.03
        assert record["model"]["weights"] == "seeded" and "tiny_onnx" in record["model"]["config"]
        assert record["machine"]["cores"] >= 1 and record["versions"]["numpy"]
    header, *rows = results.with_suffix(".csv").read_text().splitlines()
    assert "latency.p99" in header and len(rows) == 8


def test_a_second_run_measures_only_what_is_missing(server, tmp_path):
    results = tmp_path / "results.jsonl"
    sweep(server, results, "--concurrency", "1")
    first = records(results)
    sweep(server, results, "--concurrency", "1,2")
    assert records(results)[:1] == first
    assert [record["load"]["concurrency"] for record in records(results)] == [1, 2]
    sweep(server, results, "--concurrency", "1", "--again")
    assert [record["load"]["concurrency"] for record in records(results)] == [1, 2, 1]


def test_a_model_without_a_batcher(server, tmp_path):
    """Triton counts one inference for a request of four images; images are what is reported."""
    results = tmp_path / "results.jsonl"
    common = ["--url", server.url, "--results", str(results), "--window", "0.3"]
    assert main(["sweep", "--model", "tiny_openvino", "--concurrency", "1", "--batches", "1,4", *common]) == 0
    one, four = records(results)
    for record, batch in ((one, 1), (four, 4)):
        in_flight = record["throughput"] * sum(record["phases"].values()) / 1000  # Little's law
        assert in_flight == pytest.approx(batch, rel=0.3)


def test_request_rates(server, tmp_path):
    results = tmp_path / "results.jsonl"
    assert sweep(server, results, "--rates", "20") == 0
    (record,) = records(results)
    assert record["throughput"] == pytest.approx(20, rel=0.3)
    assert (record["load"]["rate"], record["load"]["concurrency"]) == (20, 0)


def test_the_server_that_it_starts_is_watched(repository, tmp_path):
    """Cores and memory are known of one's own server only; batches form at a concurrency above 1."""
    results = tmp_path / "results.jsonl"
    command = ["sweep", "--repository", str(repository), "--model", "tiny_onnx", "--concurrency", "8", "--window", "0.3"]
    assert main([*command, "--results", str(results)]) == 0
    (record,) = records(results)
    assert 0 < record["server"]["cores"] <= (os.cpu_count() or 1)
    assert record["server"]["memory_mib"] > 50
    assert record["server"]["mean_batch"] > 1


def test_a_model_that_never_gets_stable(tmp_path, capsys):
    """With a queue policy, Triton answers some requests half a second late, which is longer than a window here."""
    export(tiny_request(tmp_path / "models", formats=("onnx",), serving=Serving(max_batch=4, queue_size=64)), QUIET)
    results = tmp_path / "results.jsonl"
    with Server(tmp_path / "models", ports=FREE_PORTS, only=["tiny_onnx"]) as server:
        assert sweep(server, results, "--concurrency", "4") == 0
    assert "unstable, tried again with longer windows" in capsys.readouterr().err
    (record,) = records(results)
    assert record["stable"] is False and record["throughput"] > 0


def test_models_and_servers_that_are_not_there(server, tmp_path, capsys):
    common = ["--results", str(tmp_path / "r.jsonl")]
    assert main(["sweep", "--url", server.url, "--model", "nothing", *common]) == 1
    assert "does not serve nothing: choose from" in capsys.readouterr().err
    assert main(["sweep", "--url", "127.0.0.1:1", "--model", "tiny_onnx", *common]) == 69
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize("victim", ["perf_analyzer", "server"])
def test_what_is_killed_under_way(repository, tmp_path, capsys, victim):
    """One line says what went; what was measured before is kept."""
    results = tmp_path / "results.jsonl"
    with Server(repository, ports=FREE_PORTS, only=["tiny_onnx"]) as server:

        def kill() -> None:
            while not (results.exists() and (running := children("perf_analyzer"))):
                time.sleep(0.05)
            (running[0] if victim == "perf_analyzer" else psutil.Process(server.pid)).kill()

        killer = threading.Thread(target=kill)
        killer.start()
        code = sweep(server, results, "--concurrency", "1,2,4")
        killer.join(60)
    err = capsys.readouterr().err
    assert code in (1, 69)
    assert err.splitlines()[-1].startswith("error: ")
    if victim == "perf_analyzer":
        assert "perf_analyzer was ended by SIGKILL. Run again to go on" in err
    assert len(records(results)) >= 1


def test_a_server_that_goes_between_two_questions(repository):
    with serving(repository, ["tiny_onnx"]) as subject:
        pass
    with pytest.raises(ServerUnreachable, match="no longer says what it did"):
        subject.counters("tiny_onnx")


def test_ctrl_c_keeps_what_is_done(server, tmp_path):
    results = tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "perf", "sweep", "--url", server.url, "--model", "tiny_onnx", "--concurrency", "1,2,4,8"]
    process = subprocess.Popen([*command, "--window", "0.3", "--results", results], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not results.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted; what was measured is kept" in err and "Traceback" not in err
    assert 1 <= len(records(results)) < 4
    psutil.wait_procs(left := children("perf_analyzer"), timeout=10)
    assert not [each for each in left if each.is_running()]


def test_every_combination_is_a_load():
    assert len(loads(["a", "b"], batches=[1, 8], concurrencies=[1, 2, 4], protocols=["grpc", "http"])) == 24
    assert [load.rate for load in loads(["a"], batches=[1], concurrencies=[1, 2], rates=[5.0])] == [5.0]


def test_photographs_are_what_is_sent(server):
    with Generator(server.url) as generator:
        content = json.loads(generator._input_of("tiny_onnx", 1).read_text())
    assert len({entry["INPUT__0"]["b64"] for entry in content["data"]}) == len(content["data"]) > 1
    assert str(Load("m", 8, 4)) == "m, batch 8, concurrency 4, grpc"


def children(name: str) -> list[psutil.Process]:
    """Those that run; one that has ended and waits for its parent to notice does not."""
    found = psutil.process_iter(["name", "status"])
    return [each for each in found if each.info["name"] == name and each.info["status"] != psutil.STATUS_ZOMBIE]
