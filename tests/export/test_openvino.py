"""OpenVINO: its IR, its precisions, and a config that needs no batcher."""

from __future__ import annotations

import json
import time
from itertools import permutations

import numpy as np
import pytest

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.images import load_image, sample_photographs
from seresnext101_triton.export import manifest, speed
from seresnext101_triton.export.cli import main
from seresnext101_triton.export.config import from_text
from seresnext101_triton.export.errors import OptionError
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.server import runtimes
from seresnext101_triton.server.errors import ArtifactError
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.runtimes import bfloat16
from seresnext101_triton.server.runtimes.openvino import OpenVino
from seresnext101_triton.server.runtimes.openvino_package import core
from tests.conftest import FREE_PORTS, QUIET, tiny_request

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def bf16(tmp_path_factory):
    request = tiny_request(
        tmp_path_factory.mktemp("bf16") / "models", formats=("openvino",), precision="bf16"
    )
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
    with (
        Classifier(server.url, "tiny_openvino") as classifier,
        Classifier(server.url, "tiny_onnx") as onnx,
    ):
        images = np.stack([classifier.prepare(path) for path in sample_photographs()])
        for batch in (images[:1], images[:3], images):
            np.testing.assert_allclose(
                classifier.infer(batch), onnx.infer(batch), rtol=1e-3, atol=1e-7
            )
        first, *_ = classifier.classify(load_image(photograph))
        other, *_ = onnx.classify(load_image(photograph))
        assert first.index == other.index


def test_bfloat16_is_served(bf16):
    with (
        Server(bf16.folder.parent.parent, ports=FREE_PORTS) as server,
        Classifier(server.url, bf16.model) as classifier,
    ):
        image = classifier.prepare(sample_photographs()[0])[None]
        alone = runtimes.load("openvino", bf16.artifact, {"HINT_BF16": "YES"}).run(image)
        np.testing.assert_array_equal(classifier.infer(image), alone)


def batch_axis(outcome) -> list[str]:
    model = core().read_model(str(outcome.artifact))
    return [str(port.partial_shape[0]) for port in (*model.inputs, *model.outputs)]


def test_the_batch_axis_holds_one_image_at_least_and_has_no_upper_bound(fp32, bf16):
    """NVIDIA's backend takes `1..` for a config's -1, and refuses `1..8`."""
    assert batch_axis(fp32) == batch_axis(bf16) == ["1..", "1.."]


def test_openvino_itself_refuses_an_empty_batch_and_answers_on(fp32):
    """As in NVIDIA's backend, which lets it through to OpenVINO."""
    runtime = runtimes.load("openvino", fp32.artifact, {})
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64), dtype=np.float32)
    expected = {size: runtime.run(images[:size]) for size in (1, 2)}
    for sizes in permutations((0, 1, 2, 0)):
        for size in sizes:
            if size:
                np.testing.assert_array_equal(runtime.run(images[:size]), expected[size])
            else:
                with pytest.raises(RuntimeError, match=r"1\.\.|\[0,3,64,64\]"):
                    runtime.run(images[:0])


def computes_bf16() -> bool:
    """Whether OpenVINO says of this processor that it does, and no limit forbids it."""
    supported = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return supported and bfloat16.can_be_asked_for()


def test_the_manifest_says_what_was_proven_and_how_fast_it_is(fp32, bf16):
    """On a processor without bfloat16, OpenVINO computes in FP32 without a warning.

    This proves nothing about bfloat16.
    """
    assert fp32.manifest.parity["ran_in"] == "fp32"
    assert fp32.manifest.speed is None
    found = bf16.manifest.speed
    assert (
        bf16.manifest.parity["ran_in"] == found["ran_in"] == ("bf16" if computes_bf16() else "fp32")
    )
    assert (found["batch"], found["processor"]) == (1, speed.processor())
    if computes_bf16():
        assert found["ratio"] > 0 and found["pairs"] == speed.PAIRS
        assert bf16.manifest.parity["relative_error"] > 1e-5
    else:
        assert found["ratio"] is None
        assert bf16.manifest.parity["relative_error"] < 1e-5
    written = manifest.read(bf16.folder)
    assert written is not None and written.speed == found


def test_a_manifest_from_before_has_no_speed(bf16, tmp_path):
    facts = json.loads((bf16.folder / "manifest.json").read_text())
    del facts["speed"]
    (tmp_path / "manifest.json").write_text(json.dumps(facts))
    before = manifest.read(tmp_path)
    assert before is not None and before.speed is None


@pytest.mark.parametrize(
    ("ran_in", "ratio", "line"),
    [
        (
            "fp32",
            None,
            "bfloat16 cannot run on this machine (CPU X): OpenVINO computed in FP32, "
            "and the gate has proven FP32.",
        ),
        (
            "bf16",
            0.65,
            "bfloat16 runs at 0.65 times FP32's speed on this machine (CPU X): "
            "publish FP32 here, or serve where AMX",
        ),
        ("bf16", 1.93, "bfloat16 runs at 1.93 times FP32's speed on this machine (CPU X)"),
    ],
)
def test_what_a_person_is_told_of_bfloat16(ran_in, ratio, line):
    told = speed.Speed(ran_in, ratio, 5, 1, "CPU X").line
    assert told.startswith(line)
    assert ("publish FP32 here" in told.lower().replace("fp32", "FP32")) == (
        ratio is None or ratio < 1
    )


class Clock(runtimes.Runtime):
    """A runtime that takes so many seconds of a clock of the test's own."""

    now = 0.0

    def __init__(self, *seconds: float) -> None:
        self._seconds = list(seconds)
        self.runs = 0

    def run(self, batch: np.ndarray) -> np.ndarray:
        Clock.now += self._seconds[self.runs % len(self._seconds)]
        self.runs += 1
        return batch


def test_the_ratio_is_the_median_of_pairs(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: Clock.now)
    slow, fast = Clock(9.0, 3.0, 3.0, 30.0, 3.0, 3.0), Clock(7.0, 2.0, 2.0, 2.0, 2.0, 0.01)
    assert speed.compare(slow, fast, np.zeros((1, 1))) == pytest.approx(1.5)
    assert (slow.runs, fast.runs) == (1 + speed.PAIRS, 1 + speed.PAIRS)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"PERFORMANCE_HINT": "FAST"}, "must be one of LATENCY"),
        (
            {"NUM_STREAMS": "many"},
            "NUM_STREAMS must be a whole number of 0 to 1024, AUTO or NUMA, not 'many'",
        ),
        ({"NUM_STREAMS": "-1"}, "NUM_STREAMS must be a whole number"),
        (
            {"INFERENCE_NUM_THREADS": "x"},
            "INFERENCE_NUM_THREADS must be a whole number of 0 to 1024, not 'x'",
        ),
        (
            {"INFERENCE_NUM_THREADS": "1025"},
            "INFERENCE_NUM_THREADS must be a whole number of 0 to 1024",
        ),
        ({"HINT_BF16": "NO"}, "HINT_BF16 must be YES, not 'NO'"),
        (
            {"COMPILATION_NUM_THREADS": "1"},
            "COMPILATION_NUM_THREADS is not one of OpenVINO's CPU plugin",
        ),
        ({"CPU_EXTENSION_PATH": "/nowhere.so"}, "cannot be loaded by OpenVINO: .*/nowhere.so"),
    ],
)
def test_parameters_that_mean_nothing(fp32, parameters, message):
    with pytest.raises(ArtifactError, match=message):
        runtimes.load("openvino", fp32.artifact, parameters)


def test_parameters_of_nvidias_backend(fp32):
    image = np.zeros((1, 3, 64, 64), np.float32)
    plain = runtimes.load("openvino", fp32.artifact, {}).run(image)
    parameters = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": "2",
        "INFERENCE_NUM_THREADS": "1",
    }
    np.testing.assert_allclose(
        runtimes.load("openvino", fp32.artifact, parameters).run(image), plain, rtol=1e-4, atol=1e-7
    )


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


@pytest.mark.parametrize(
    ("option", "message"),
    [(["--device", "gpu"], "served on CPUs only"), (["--queue-delay", "100"], "has no queue")],
)
def test_options_that_do_not_go_with_it(tmp_path, capsys, option, message):
    assert (
        main(
            ["--weights", "seeded", "--formats", "openvino", "--repository", str(tmp_path), *option]
        )
        == 2
    )
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
