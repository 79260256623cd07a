"""A real tritonserver takes the arguments that the chart and KServe's runtime give it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import pytest

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.server import installation
from seresnext101_triton.server.backends import REPOSITORY_VARIABLE
from seresnext101_triton.server.ports import Ports
from tests.deploy.objects import DEPLOY, Object, container, kustomize, of_kind, render
from tests.waiting import until

PROJECT = Path(__file__).parents[2]
KEY = "0b2c7c1e-4d8e-4e0b-9d3f-6a2f1c5e7a90"
SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse
MODEL = "tiny_onnx"


def of_the_chart() -> Object:
    return container(render())


def of_kserve() -> Object:
    runtime = of_kind(kustomize(DEPLOY / "kserve" / "http"), "ServingRuntime")
    (found,) = runtime["spec"]["containers"]
    return dict(found)


@contextmanager
def started(described: Object, repository: Path, ports: Ports, workspace: Path) -> Iterator[None]:
    """A tritonserver with the arguments of a container.

    Only what differs on this machine is replaced: the repository, the model, the ports, and the
    interface.
    """
    program, *arguments = described["args"]
    assert program == "tritonserver"
    text = "\n".join(arguments).replace("$(CONTROL_KEY)", KEY)
    for pattern, value in {
        "--model-repository=.*": f"--model-repository={repository}",
        "--load-model=.*": f"--load-model={MODEL}",
        "--http-port=.*": f"--http-port={ports.http}",
        "--grpc-port=.*": f"--grpc-port={ports.grpc}",
        "--metrics-port=.*": f"--metrics-port={ports.metrics}",
    }.items():
        text, times = re.subn(pattern, value, text)
        assert times == 1, pattern
    local = [f"--{each}-address=127.0.0.1" for each in ("http", "grpc", "metrics")]
    triton = installation.find(workspace)
    with (workspace / "log").open("w") as log:
        process = subprocess.Popen(
            [triton.executable, *text.split("\n"), *triton.arguments, *local],
            cwd=PROJECT,
            env=os.environ | triton.environment | {REPOSITORY_VARIABLE: str(repository)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        probe = described["startupProbe"]["grpc"]["port"]
        assert f"--grpc-port={probe}" in described["args"]

        def serving() -> bool:
            assert process.poll() is None, (workspace / "log").read_text()
            with grpc.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
                check = channel.unary_unary("/grpc.health.v1.Health/Check")
                try:
                    return bool(check(b"", timeout=5) == SERVING)
                except grpc.RpcError:
                    return False

        def listening(port: int) -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return True
            return False

        assert until(serving), (workspace / "log").read_text()
        # The server opens the port of gRPC first.
        assert until(lambda: listening(ports.http) and listening(ports.metrics))
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("describe", [of_the_chart, of_kserve])
def test_it_starts_serves_and_cannot_be_controlled(describe, repository, tmp_path):
    described = describe()
    ports = Ports(0, 0, 0).resolve("127.0.0.1")
    with started(described, repository, ports, tmp_path):
        address = f"http://127.0.0.1:{ports.http}"
        live = described["livenessProbe"]["httpGet"]["path"]
        assert urlopen(f"{address}{live}", timeout=30).status == 200
        assert urlopen(f"http://127.0.0.1:{ports.metrics}/metrics", timeout=30).status == 200
        for url in (address, f"127.0.0.1:{ports.grpc}"):
            with Classifier(url, model=MODEL) as classifier:
                assert len(classifier.classify(sample_photographs()[0])) == 5

        def control(key: dict[str, str]) -> int:
            """Ask for another model of the repository."""
            request = Request(
                f"{address}/v2/repository/models/tiny_torchscript/unload", b"{}", headers=key
            )
            with urlopen(request, timeout=30) as answer:
                return int(answer.status)

        for path in ("repository/models/tiny_onnx/unload", "repository/index", "logging"):
            with pytest.raises(HTTPError) as refused:
                urlopen(Request(f"{address}/v2/{path}", b"{}"), timeout=30)
            assert refused.value.code == 403
        with pytest.raises(HTTPError, match="403"):
            control({"control-key": "guessed"})
        assert control({"control-key": KEY}) == 200
        assert urlopen(f"{address}/v2/models/{MODEL}/ready", timeout=30).status == 200


def test_the_init_container_checks_the_repository(repository, tmp_path):
    """Its command ends with 65 for a changed file, and with 1 for a model that is not there."""
    pod = of_kind(render({"models": [MODEL]}), "Deployment")["spec"]["template"]["spec"]
    (init,) = pod["initContainers"]
    assert init["command"][0] == "python"
    models = tmp_path / "models"
    shutil.copytree(repository, models)

    def checked(command: list[str]) -> subprocess.CompletedProcess[str]:
        words = [word.replace("/models", str(models)) for word in command[1:]]
        return subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True
        )

    assert checked(init["command"]).returncode == 0
    assert checked([*init["command"], "absent"]).returncode == 1
    artifact = models / MODEL / "1" / "model.onnx"
    artifact.write_bytes(artifact.read_bytes()[:-1] + b"?")
    result = checked(init["command"])
    assert result.returncode == 65 and "changed" in result.stdout
