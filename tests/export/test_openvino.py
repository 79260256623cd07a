"""OpenVINO: its IR, its precisions, and a config that needs no batcher."""

from __future__ import annotations

import numpy as np
import pytest

from client import Classifier
from client.images import load_image, sample_photographs
from export.cli import main
from export.config import from_text
from export.errors import OptionError
from export.pipeline import export
from server import runtimes
from server.errors import ArtifactError
from server.launcher import Server
from server.runtimes.openvino import OpenVino
from tests.conftest import FREE_PORTS, QUIET, tiny_request


@pytest.fixture(scope="module")
def bf16(tmp_path_factory):
    request = tiny_request(tmp_path_factory.mktemp("bf16") / "models", formats=("openvino",), precision="bf16")
    (outcome,) = export(request, QUIET)
    return outcome


@pytest.fixture
def fp32(exported):
    return next(outcome for outcome in exported if outcome.model == "tiny_openvino")


def config(outcome):
    return from_text((outcome.folder.parent / "config.pbtxt").read_text())


def test_graph_and_weights_are_one_version(fp32):
    assert [artifact["file"] for artifact in fp32.manifest.artifacts] == ["model.xml", "model.bin"]
    assert fp32.artifact.name == "model.xml"
    assert fp32.manifest.tools["openvino"] != "unknown"
    assert fp32.manifest.parity["relative_error"] < 1e-5


def test_its_config_suits_nvidias_backend(fp32, bf16):
    """With a largest batch, that backend wants every run to have exactly as many images."""
    found = config(fp32)
    assert (found.backend, found.platform, found.max_batch_size) == ("openvino", "", 0)
    assert list(found.input[0].dims) == [-1, 3, 64, 64]
    assert list(found.output[0].dims) == [-1, 1000]
    assert not found.HasField("dynamic_batching")
    assert found.parameters["PERFORMANCE_HINT"].string_value == "LATENCY"
    assert "HINT_BF16" not in found.parameters
    assert config(bf16).parameters["HINT_BF16"].string_value == "YES"
    assert bf16.model == "tiny_openvino_bf16"


def test_fp32_is_fp32_also_where_bfloat16_is_the_processors_default(fp32):
    runtime = runtimes.load("openvino", fp32.artifact, {})
    assert isinstance(runtime, OpenVino) and runtime.precision == "f32"


def test_batches_of_any_size_are_answered(fp32, repository, server):
    photograph = sample_photographs()[0]
    with Classifier(server.url, "tiny_openvino") as classifier, Classifier(server.url, "tiny_onnx") as onnx:
        images = np.stack([classifier.prepare(path) for path in sample_photographs()])
        for batch in (images[:1], images[:3], images):
            np.testing.assert_allclose(classifier.infer(batch), onnx.infer(batch), rtol=1e-3, atol=1e-7)
        first, *_ = classifier.classify(load_image(photograph))
        other, *_ = onnx.classify(load_image(photograph))
        assert first.index == other.index


def test_bfloat16_is_served(bf16):
    with Server(bf16.folder.parent.parent, ports=FREE_PORTS) as server, Classifier(server.url, bf16.model) as classifier:
        image = classifier.prepare(sample_photographs()[0])[None]
        alone = runtimes.load("openvino", bf16.artifact, {"HINT_BF16": "YES"}).run(image)
        np.testing.assert_array_equal(classifier.infer(image), alone)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"PERFORMANCE_HINT": "FAST"}, "must be one of LATENCY"),
        ({"NUM_STREAMS": "many"}, "NUM_STREAMS must be a whole number"),
        ({"INFERENCE_NUM_THREADS": "x"}, "INFERENCE_NUM_THREADS must be a whole number"),
    ],
)
def test_parameters_that_mean_nothing(fp32, parameters, message):
    with pytest.raises(ArtifactError, match=message):
        runtimes.load("openvino", fp32.artifact, parameters)


def test_parameters_of_nvidias_backend(fp32):
    image = np.zeros((1, 3, 64, 64), np.float32)
    plain = runtimes.load("openvino", fp32.artifact, {}).run(image)
    parameters = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": "1"}
    np.testing.assert_allclose(runtimes.load("openvino", fp32.artifact, parameters).run(image), plain, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp16"}, "openvino is not exported in fp16: choose from fp32, bf16"),
        ({"formats": ("onnx",), "precision": "bf16"}, "onnx is not exported in bf16"),
    ],
)
def test_precisions_that_a_format_has_not(tmp_path, changes, message):
    with pytest.raises(OptionError, match=message):
        tiny_request(tmp_path, **{"formats": ("openvino",), **changes})


@pytest.mark.parametrize(("option", "message"), [(["--device", "gpu"], "served on CPUs only"), (["--queue-delay", "100"], "has no queue")])
def test_options_that_do_not_go_with_it(tmp_path, capsys, option, message):
    assert main(["--weights", "seeded", "--formats", "openvino", "--repository", str(tmp_path), *option]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
