"""`perf inputs`: values, pixels and files, by turns, on a real server."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from seresnext101_triton.client import Classifier, Connection
from seresnext101_triton.client.cli import main as client
from seresnext101_triton.client.contract import PIXELS
from seresnext101_triton.client.counters import ModelCounters
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.client.metrics import Page, read_page
from seresnext101_triton.client.top import rows_between
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.serving import ImageInput, Serving
from seresnext101_triton.perf.cli import main
from seresnext101_triton.perf.inputs import InputOptions, measure_inputs
from seresnext101_triton.perf.serving import MeasuredServer
from seresnext101_triton.server.arguments import cache_arguments
from seresnext101_triton.server.errors import ServerError
from seresnext101_triton.server.launcher import Server
from tests.conftest import FREE_PORTS, PREPROCESSING, QUIET, tiny_request
from tests.server.launching import DEADLINE_S
from tests.waiting import until


@pytest.fixture(scope="module")
def ways_repository(repository, pixel_models, tmp_path_factory):
    """A network that takes values, pixels and files, and answers equal requests from a cache."""
    root = tmp_path_factory.mktemp("ways") / "models"
    shutil.copytree(repository / "tiny_onnx", root / "tiny_onnx")
    shutil.copytree(pixel_models[1].folder.parent, root / "tiny_onnx_uint8")
    serving = Serving(max_batch=4, response_cache=True)
    values = tiny_request(root, formats=("onnx",), image_input=ImageInput(), serving=serving)
    pixels = replace(PREPROCESSING, layout=PIXELS)
    export(values, QUIET)
    export(tiny_request(root, formats=("onnx",), preprocessing=pixels), QUIET)
    return root


def test_the_command_measures_every_way(ways_repository, capsys):
    arguments = ["inputs", "tiny_onnx", "--repository", str(ways_repository)]
    arguments += ["--rounds", "3", "--seconds", "0.2", "--in-flight", "2"]
    assert main([*arguments, "--json"]) == 0
    values, pixels, files = json.loads(capsys.readouterr().out)
    assert [way["sent"] for way in (values, pixels, files)] == ["values", "pixels", "files"]
    assert (values["bytes"], pixels["bytes"]) == (4 * 3 * 64 * 64, 3 * 64 * 64)
    lengths = [path.stat().st_size for path in sample_photographs()]
    assert files["bytes"] == sum(lengths) / len(lengths)
    for way in (values, pixels, files):
        assert set(way["throughput"]) == set(way["server_cpu_ms"]) == {"1", "2"}
        assert all(len(turns) == 3 and min(turns) > 0 for turns in way["throughput"].values())
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("values", "pixels", "files", "server CPU"))


def test_a_network_with_one_way_cannot_be_compared(server):
    from seresnext101_triton.perf.errors import PerfError

    measured = MeasuredServer(server.url, "", None)
    with pytest.raises(PerfError, match="there is nothing to compare: the server must have tiny_o"):
        measure_inputs(measured, "tiny_openvino", InputOptions())


def counters_of(model: str, url: str, answered: int) -> ModelCounters:
    """The server's counters, after it has counted this many answers."""
    with Connection(url) as connection:
        assert until(lambda: connection.counters(model)[0].answered == answered)
        return connection.counters(model)[0]


def test_equal_images_are_answered_from_the_cache(ways_repository, capsys):
    first, second, *_ = sample_photographs()
    with Server(
        ways_repository, ports=FREE_PORTS, only=["tiny_onnx_image"], response_cache_mib=16
    ) as running:
        with Classifier(running.url, "tiny_onnx_image") as classifier:
            answers = [classifier.classify(first) for _ in range(3)]
            assert answers[1:] == answers[:-1] and classifier.classify(second) != answers[0]
        counters = counters_of("tiny_onnx_image", running.url, answered=4)
        assert (counters.cached, counters.images) == (2, 2)
        page = read_page("127.0.0.1", running.ports.metrics, DEADLINE_S)
        (row,) = (
            row
            for row in rows_between(Page({}, {}), page, 1.0, None)
            if row.model == "tiny_onnx_image"
        )
        assert row.cached == 0.5
        capsys.readouterr()
        address = ["--url", running.url, "--metrics-port", str(running.ports.metrics)]
        assert client(["top", *address, "--interval", "0.1", "--count", "1"]) == 0
        assert "hits" in capsys.readouterr().out
        measured = MeasuredServer(running.url, "", None)
        now = measured.counters("tiny_onnx_image")
        start = replace(now, images=0, runs=0, answered=0, cached=0)
        assert measured.usage(start, now).cached == 0.5


def test_a_server_without_a_cache_computes_every_image(ways_repository):
    """Although the models would use one."""
    photograph = sample_photographs()[0]
    with Server(ways_repository, ports=FREE_PORTS, only=["tiny_onnx_image"]) as running:
        with Classifier(running.url, "tiny_onnx_image") as classifier:
            assert classifier.classify(photograph) == classifier.classify(photograph)
        counters = counters_of("tiny_onnx_image", running.url, answered=2)
        assert (counters.cached, counters.images) == (0, 2)


def test_a_cache_has_a_size_that_the_machine_has():
    assert cache_arguments(0) == []
    assert cache_arguments(3) == ["--cache-config=local,size=3145728"]
    for size in (-1, 1 << 40):
        with pytest.raises(ServerError, match="`response_cache` must be 0 to"):
            cache_arguments(size)
