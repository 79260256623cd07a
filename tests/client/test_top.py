"""`client top`: what is read from the metrics of a server, and how it is shown."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from seresnext101_triton.client import Connection
from seresnext101_triton.client.cli import main
from seresnext101_triton.client.errors import NotTriton, ServerUnreachable
from seresnext101_triton.client.metrics import Page, parse, read_page
from seresnext101_triton.client.top import Row, Server, _picture, rows_between

PROJECT = Path(__file__).parents[2]
PAGE = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{{model="a \\"b\\"\\\\",version="10"}} {requests}
nv_inference_request_failure{{model="a \\"b\\"\\\\",reason="OTHER",version="10"}} {failures}
nv_inference_request_failure{{model="a \\"b\\"\\\\",reason="BACKEND",version="10"}} 1
nv_inference_count{{model="a \\"b\\"\\\\",version="10"}} {images}
nv_inference_exec_count{{model="a \\"b\\"\\\\",version="10"}} {runs}
nv_inference_queue_duration_us{{model="a \\"b\\"\\\\",version="10"}} {queue}
nv_inference_compute_input_duration_us{{model="a \\"b\\"\\\\",version="10"}} {runs}
nv_inference_compute_infer_duration_us{{model="a \\"b\\"\\\\",version="10"}} {compute}
nv_inference_compute_output_duration_us{{model="a \\"b\\"\\\\",version="10"}} {compute}
nv_inference_pending_request_count{{model="a \\"b\\"\\\\",version="10"}} 7
nv_inference_request_success{{model="a \\"b\\"\\\\",version="9"}} 1
nv_cache_num_hits_per_model{{model="a \\"b\\"\\\\",version="10"}} {hits}
nv_cache_num_misses_per_model{{model="a \\"b\\"\\\\",version="10"}} 5
nv_cpu_utilization 0.5
nv_cpu_memory_total_bytes 4e9
nv_cpu_memory_used_bytes 1.25e9
nv_unknown many
nv_gpu_utilization{{gpu_uuid="one"}} 0.25
nv_gpu_utilization{{gpu_uuid="two"}} 0.75
this is not a sample
"""
BEFORE = {
    "requests": 10,
    "failures": 0,
    "images": 20,
    "runs": 5,
    "queue": 0,
    "compute": 5,
    "hits": 1,
}
AFTER = {
    "requests": 30,
    "failures": 3,
    "images": 100,
    "runs": 15,
    "queue": 40000,
    "compute": 50000,
    "hits": 4,
}
HEADS = ["ver", "req/s", "img/s", "batch", "ms", "ms", "wait", "failed", "starts"]
KEY = ('a "b"\\', "10")


def test_requests_that_failed_in_a_python_backend_were_not_answered():
    """Triton counts them as successful."""
    text = (
        'seresnext101_request_failure{model="m",version="1"} 3\n'
        'nv_inference_request_success{model="m",version="1"} 8\n'
        'nv_inference_request_failure{model="m",reason="BACKEND",version="1"} 1\n'
    )
    counts = parse(text).models["m", "1"]
    assert (counts.requests, counts.failures, counts.failed) == (5, {"BACKEND": 4}, 4)


def test_what_happened_between_two_readings():
    pages = parse(PAGE.format(**BEFORE)), parse(PAGE.format(**AFTER))
    old, new = rows_between(*pages, 2.0, {KEY[0]: 4})
    assert (old.version, new.version) == ("9", "10")
    assert (new.requests_per_s, new.images_per_s, new.batch) == (10, 40, 8)
    assert (new.queue_ms, new.compute_ms, new.pending) == (2, 5, 7)
    assert (new.failed, new.failed_before, new.restarts) == (3, 4, 4)
    assert (new.cached, old.cached) == (1, None)
    assert (old.requests_per_s, old.batch, old.queue_ms, old.restarts) == (0, None, None, 4)
    assert pages[0].gauges == {
        "nv_cpu_utilization": 0.5,
        "nv_gpu_utilization": 0.5,
        "nv_cpu_memory_total_bytes": 4e9,
        "nv_cpu_memory_used_bytes": 1.25e9,
    }


def shown(rows: list[Row] | None, page: Page | ServerUnreachable) -> list[list[str]]:
    written = io.StringIO()
    console = Console(file=written, width=160)
    console.print(_picture(Server("host:1", "host", 8002), 2.0, rows, page))
    return [line.split() for line in written.getvalue().splitlines()]


def test_the_picture_of_what_happened():
    pages = parse(PAGE.format(**BEFORE)), parse(PAGE.format(**AFTER))
    url_and_time, machine, _, heads, old, new = shown(
        rows_between(*pages, 2.0, {KEY[0]: 4}), pages[1]
    )
    assert url_and_time[0] == "host:1"
    assert url_and_time[2:] == ["40.0", "images/s", "in", "the", "last", "2.0", "s"]
    assert machine == ["CPU", "50%", "memory", "1.2", "of", "4.0", "GB", "GPU", "50%"]
    assert heads == ["model", *HEADS, "hits"]
    assert old == [*KEY[0].split(), "9", "0", "0", "-", "-", "-", "0", "0", "4", "-"]
    assert new == [
        *(*KEY[0].split(), "10", "10.0", "40.0", "8.0", "2.0", "5.0"),
        *("7", "4", "(+3)", "4", "100%"),
    ]
    # Neither a cache, nor what the launcher knows, nor the machine; three digits at most.
    page = parse('nv_inference_request_success{model="m",version="1"} 400')
    head, _, heads, row = shown(rows_between(parse(""), page, 2.0, None), page)
    assert heads == ["model", *HEADS] and head[2] == "0"
    assert row == ["m", "1", "200", "0", "-", "0", "0", "0", "0", "-"]
    error = ServerUnreachable("it is gone")
    assert shown(None, error) == [
        ["host:1", "does", "not", "answer;", "asking", "again:", "it", "is", "gone"]
    ]


def test_a_model_that_was_loaded_again_counts_from_zero():
    pages = parse(PAGE.format(**AFTER)), parse(PAGE.format(**BEFORE))
    _, row = rows_between(*pages, 1.0, None)
    assert (row.requests_per_s, row.images_per_s, row.failed) == (10, 20, 1)
    assert row.restarts is None


def test_a_model_that_was_loaded_meanwhile():
    _, row = rows_between(parse(""), parse(PAGE.format(**BEFORE)), 1.0, None)
    assert row.requests_per_s == 10


def test_the_page_of_a_server(server):
    before = read_page("127.0.0.1", server.ports.metrics, 10)
    with Connection(server.url) as connection:
        model = connection.describe("tiny_onnx")
        import numpy as np

        connection.infer(model, np.zeros((2, 3, 64, 64), np.float32))
    after = read_page("127.0.0.1", server.ports.metrics, 10)
    (row,) = (row for row in rows_between(before, after, 1.0, None) if row.model == "tiny_onnx")
    assert (row.requests_per_s, row.images_per_s, row.batch) == (1, 2, 2)
    assert row.compute_ms and row.failed == 0


def arguments(server, *more: str) -> list[str]:
    address = ["--url", server.url, "--metrics-port", str(server.ports.metrics)]
    return ["top", *address, "--interval", "0.1", "--count", "1", *more]


def test_the_table(server, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(arguments(server)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(server.url) and "images/s in the last" in lines[0]
    assert max(map(len, lines)) <= 80
    assert any(re.match(r"tiny_torchscript +1 +0 ", line) for line in lines)


def test_one_object_for_each_interval(server, capsys):
    assert main(arguments(server, "--json")) == 0
    (line,) = capsys.readouterr().out.splitlines()
    names = {row["model"] for row in json.loads(line)["models"]}
    assert names == {"tiny_torchscript", "tiny_onnx", "tiny_openvino", "logits_torchscript"}


def test_a_terminal_and_ctrl_c(server):
    """The picture is drawn again and again. Ctrl-C is the usual end, and exits with 0."""
    primary, secondary = pty.openpty()
    command = [sys.executable, "-m", "client", *arguments(server)[:-2]]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=secondary, stdin=secondary)
    os.close(secondary)
    shown = b""
    while shown.count(b"tiny_torchscript") < 2:
        shown += os.read(primary, 1 << 16)
    process.send_signal(2)
    while True:
        try:
            if not os.read(primary, 1 << 16):
                break
        except OSError:  # the other end was closed
            break
    os.close(primary)
    assert process.wait(60) == 0


def test_a_port_without_metrics(server):
    with pytest.raises(NotTriton, match="is not the metrics page of a Triton server"):
        read_page("127.0.0.1", server.ports.grpc, 10)
    with pytest.raises(NotTriton, match="is not the metrics page of a Triton server"):
        read_page("127.0.0.1", server.ports.http, 10)
    with pytest.raises(ServerUnreachable, match="no server tells its metrics at 127"):
        read_page("127.0.0.1", 9, 10)


def test_one_server_is_shown(capsys):
    assert main(["top", "--url", "one,two"]) == 2
    assert "--url names 2 servers, and top shows one" in capsys.readouterr().err
