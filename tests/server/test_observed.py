"""What is seen of a server from outside: JSON lines and OpenTelemetry traces."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.server.cli import main
from seresnext101_triton.server.tracing import Tracing

PROJECT = Path(__file__).parents[2]


class Collector(http.server.ThreadingHTTPServer):
    """Keeps what is sent to it, as a collector of OpenTelemetry takes it."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict]] = []
        super().__init__(("127.0.0.1", 0), _Receiver)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/traces"


class _Receiver(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append((self.path, json.loads(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_lines_are_json_and_requests_are_traced(repository, collector):
    photograph = PROJECT / "client" / "photographs" / "coffee.jpg"
    classify = ["classify", str(photograph), "--model", "tiny_onnx", "--jsonl"]
    command = [
        *(sys.executable, "-m", "server", "--repository", str(repository), "--model", "tiny_onnx"),
        *("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", "--log-format", "json"),
        *("--trace-url", collector.url, "--trace-rate", "1", "--verbose"),
        *("--", sys.executable, "-m", "client", *classify),
    ]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    told = [line for line in lines if line.get("source") == "launcher"]
    assert "tiny_onnx version 1: ready" in [line["message"] for line in told]
    assert [line["model"] for line in lines if "predictions" in line] == ["tiny_onnx"]
    logged = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["source"] for line in logged} == {"tritonserver", "launcher"}
    path, document = collector.received[-1]
    spans = json.dumps(document)
    assert path == "/v1/traces"
    assert "seresnext101-triton" in spans and "tiny_onnx" in spans and "InferRequest" in spans


@pytest.mark.parametrize(
    ("url", "rate", "message"),
    [
        ("collector:4318", 1, "`trace_url` must be the URL of a collector"),
        ("http://", 1, "`trace_url` must be"),
        ("http://host:x/", 1, "`trace_url` must be"),
        ("http://host/a b", 1, "`trace_url` must be"),
        ("http://host/", -1, "`trace_rate` must not be negative"),
    ],
)
def test_wrong_values_are_refused(url, rate, message):
    with pytest.raises(UsageError, match=message):
        Tracing(url, rate)


def test_an_error_is_one_json_line_too(capsys):
    arguments = ["--log-format", "json", "--repository", "/none"]
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert found["level"] == "error"
    assert found["message"].startswith("/none is not a folder: name a model repository with --rep")


def test_a_rate_without_a_collector_is_wrong_usage(capsys):
    assert main(["--trace-rate", "5"]) == 2
    assert "name their collector with --trace-url URL" in capsys.readouterr().err
