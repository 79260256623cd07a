"""The client behind a gateway as KServe sets it up: by the host's name, and by a path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.cli import main
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.server.fleet.gateway import Endpoint, Gateway, bootstrap
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.ports import Ports
from tests.server.fleet.envoy import running

# KServe's own templates: domainTemplate and pathTemplate of its ConfigMap.
HOST = "seresnext101-ml.example.com"
PATH = "/serving/ml/seresnext101"
MODEL = "tiny_onnx"


@dataclass(frozen=True)
class Addresses:
    """Where the gateway listens."""

    grpc: str
    http: str


@pytest.fixture(scope="module")
def gateway(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """An Envoy that knows the service by its host's name, and by its path under any name."""
    ports = Ports(0, 0, 0).resolve("127.0.0.1")
    here = Endpoint("127.0.0.1", server.ports.grpc, server.ports.http)
    configuration = bootstrap(
        Gateway((here,), grpc=ports.grpc, http=ports.http, admin=ports.metrics)
    )
    for listener in configuration["static_resources"]["listeners"]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        (by_name,) = manager["route_config"]["virtual_hosts"]
        (route,) = by_name["routes"]
        by_name["domains"] = [HOST]
        by_path = {
            "name": "by path",
            "domains": ["*"],
            "routes": [
                {
                    "match": {"prefix": f"{PATH}/"},
                    "route": route["route"] | {"prefix_rewrite": "/"},
                }
            ],
        }
        manager["route_config"]["virtual_hosts"].append(by_path)
    path = tmp_path_factory.mktemp("gateway") / "envoy.json"
    path.write_text(json.dumps(configuration))
    with running(path, ports.metrics):
        yield Addresses(f"127.0.0.1:{ports.grpc}", f"http://127.0.0.1:{ports.http}")


@pytest.fixture
def by_shape(gateway: Addresses) -> dict[str, list[str]]:
    """The options of a command line for each shape of a URL."""
    return {
        "path": ["--url", f"{gateway.http}{PATH}"],
        "host": ["--url", gateway.http, "--header", f"Host: {HOST}"],
        "gRPC": ["--url", gateway.grpc, "--header", f"Host: {HOST}"],
    }


@pytest.mark.parametrize("shape", ["path", "host", "gRPC"])
def test_classify_and_evaluate(by_shape, server, tmp_path, capsys, shape):
    photograph = sample_photographs()[0]
    with Classifier(server.url, model=MODEL) as classifier:
        expected = classifier.classify(photograph, top=1)[0]
    truth = tmp_path / "truth.csv"
    truth.write_text(f"{photograph},{expected.index}\n")
    shared = ["--model", MODEL, *by_shape[shape]]
    assert main(["classify", str(photograph), "--top", "1", *shared]) == 0
    assert str(expected.label) in capsys.readouterr().out
    assert main(["evaluate", str(truth), "--json", *shared]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["top1"]["value"] == 1
    assert main(["health", *by_shape[shape]]) == 0


@pytest.mark.parametrize("shape", ["path", "host", "gRPC"])
def test_a_wrong_name_is_told(by_shape, capsys, shape):
    wrong = [word.replace("seresnext101", "absent") for word in by_shape[shape]]
    assert main(["classify", str(sample_photographs()[0]), "--model", MODEL, *wrong]) == 69
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
