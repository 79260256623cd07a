"""Clients that know nothing of this project, on its models.

Their behaviour is that of Triton's own examples. The programs in tests/stock were written for these
tests; they import tritonclient, or only generated gRPC messages, and nothing of this project.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.contract import PIXELS
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.serving import ImageInput, Serving
from seresnext101_triton.server.launcher import Server
from tests.conftest import FREE_PORTS, QUIET
from tests.trained import digits_request

STOCK = Path(__file__).parents[1] / "stock"
LINE = re.compile(r"^(\S+): ([0-9.]+) \((\d+)\) = (.+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def served(digits, tmp_path_factory):
    """The trained network: with values, with pixels, without a batcher; files for each."""
    labels = tmp_path_factory.mktemp("labels") / "digits.txt"
    labels.write_text("".join(f"the digit {number}\n" for number in range(10)))
    root = tmp_path_factory.mktemp("stock") / "models"
    usual = digits_request(
        digits, root, formats=("onnx",), precision="fp32", quantization=None, labels=str(labels)
    )
    usual = replace(usual, serving=Serving(max_batch=4), image_input=ImageInput())
    pixels = replace(usual, preprocessing=replace(usual.preprocessing, layout=PIXELS))
    export(usual, QUIET)
    export(replace(pixels, image_input=ImageInput("uint8", instances=1)), QUIET)
    export(replace(usual, formats=("openvino",)), QUIET)
    with Server(root, ports=FREE_PORTS) as running:
        yield running


@pytest.fixture(scope="module")
def images(digits, served) -> dict[str, list[Path]]:
    """Digits that the network reads rightly, by their class."""
    with Classifier(served.url, "digits_onnx") as classifier:
        found = {}
        for number in range(0, 10, 3):
            paths = sorted((digits.unseen / str(number)).iterdir())
            answers = classifier.classify_all(paths, top=1)
            right = [
                path
                for path, (first,) in zip(paths, answers, strict=True)
                if first.index == number and first.probability > 0.9
            ]
            found[f"the digit {number}"] = right[:3]
    assert all(len(paths) == 3 for paths in found.values())
    return found


def ports(server: Server) -> tuple[str, str]:
    host = server.launch.http_host
    return f"{host}:{server.ports.grpc}", f"{host}:{server.ports.http}"


def run(program: str, *arguments: object) -> dict[str, list[str]]:
    """The labels that a program prints for each image, most likely first."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", str(STOCK / f"{program}.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = {}
    for name, _, _, label in LINE.findall(done.stdout):
        found.setdefault(name, []).append(label)
    return found


@pytest.mark.parametrize("model", ["digits_onnx_image", "digits_openvino_image"])
@pytest.mark.parametrize("protocol", ["HTTP", "gRPC"])
def test_ensemble_image_client(model, protocol, served, images, tmp_path):
    """A whole folder in one request: files of different lengths, filled up with zeros."""
    url = ports(served)[protocol == "HTTP"]
    for label, paths in images.items():
        folder = tmp_path / label
        folder.mkdir()
        for path in paths:
            (folder / path.name).write_bytes(path.read_bytes())
        found = run("ensemble_image", "-m", model, "-u", url, "-i", protocol, "-c", 2, folder)
        assert {name: labels[0] for name, labels in found.items()} == {
            path.name: label for path in paths
        }
        assert all(len(labels) == 2 for labels in found.values())


@pytest.mark.parametrize("protocol", ["HTTP", "gRPC"])
@pytest.mark.parametrize("batch", [1, 3])
def test_image_client_with_pixels(protocol, batch, served, images):
    """`-s NONE` is right for models that take pixels."""
    url = ports(served)[protocol == "HTTP"]
    for label, paths in images.items():
        found = run(
            "image", "-m", "digits_onnx_uint8", "-u", url, "-i", protocol, "-b", batch, *paths
        )
        assert found == {path.name: [label] for path in paths}


def test_grpc_image_client(served, images):
    url = ports(served)[0]
    for label, paths in images.items():
        found = run("grpc_image", "-m", "digits_onnx_uint8", "-u", url, *paths)
        assert found == {path.name: [label] for path in paths}


@pytest.mark.parametrize("model", ["digits_onnx_image", "digits_openvino_image"])
def test_the_open_inference_protocols_own_messages(model, served, images):
    """The package `open-inference-grpc`."""
    package, url = "open_inference.grpc", ports(served)[0]
    modules = "--messages", f"{package}.protocol", "--service", f"{package}.service"
    for label, paths in images.items():
        found = run("grpc_image", "-m", model, "-u", url, *modules, "--files", *paths)
        assert found == {path.name: [label] for path in paths}


def curl(served: Server, model: str, command: str, image: Path) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        errors="replace",
        env={
            **os.environ,
            "IMAGE": str(image),
            "URL": f"http://{ports(served)[1]}/v2/models/{model}/infer",
        },
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_with_json(served, images):
    """A file in base64, as a data URL: JSON holds text only."""
    command = """
        (printf '{"inputs":[{"name":"IMAGE","shape":[1,1],"datatype":"BYTES","data":["data:;base64,'
        base64 -w0 "$IMAGE"
        printf '"]}],"outputs":[{"name":"OUTPUT__0","parameters":{"classification":5}}]}') |
        curl -sS --data-binary @- "$URL"
    """
    for model in ("digits_onnx_image", "digits_openvino_image"):
        for label, paths in images.items():
            answer = json.loads(curl(served, model, command, paths[0]))
            first, *others = answer["outputs"][0]["data"]
            assert first.endswith(f":{label}") and len(others) == 4


def test_curl_with_the_file_as_the_body(served, images):
    """Without a header that says more, the answer has all scores."""
    command = """
        curl -sS --data-binary @"$IMAGE" -H 'Content-Type: application/octet-stream' \\
          -H 'Inference-Header-Content-Length: 0' "$URL"
    """
    for model in ("digits_onnx_image", "digits_openvino_image", "digits_onnx_uint8_image"):
        (path, *_) = images["the digit 3"]
        assert '"datatype":"FP32","shape":[1,10]' in curl(served, model, command, path)
