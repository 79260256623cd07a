"""NVIDIA's own parser and builder, in TensorRT for RTX: what they build, refuse, and stop."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from seresnext101_triton.client.cli import main as client_main
from seresnext101_triton.client.contract import PIXELS
from seresnext101_triton.export import config, manifest
from seresnext101_triton.export.errors import BuildError, MissingHardware, OptionError
from seresnext101_triton.export.formats.tensorrt_rtx import TensorRTRtx
from seresnext101_triton.export.onnx.gate import check_onnx
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.precision import FP16
from seresnext101_triton.export.quantization import Quantization
from seresnext101_triton.export.reporting import Reporter
from seresnext101_triton.export.tensorrt import rtx
from seresnext101_triton.perf.cli import main as perf_main
from seresnext101_triton.server import TRITON_RELEASE, runtimes
from seresnext101_triton.server.digest import sha256
from seresnext101_triton.server.errors import ArtifactError, NothingToServe
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.releases import release
from tests.conftest import FREE_PORTS, PREPROCESSING, QUIET, tiny_request
from tests.export.tensorrt.conftest import PROFILE

VERSION = "1.7.1.116"
UNPROVEN = TensorRTRtx(unproven=True)


class Recorder:
    """A watcher that remembers, and may do something at each step."""

    def __init__(self, at_step=lambda: None) -> None:
        self.started: list[str] = []
        self.finished: list[str] = []
        self.steps = 0
        self._at_step = at_step

    def start(self, phase: str, steps: int) -> None:
        assert steps >= 0
        self.started.append(phase)

    def step(self, phase: str, done: int) -> None:
        self.steps += 1
        self._at_step()

    def finish(self, phase: str) -> None:
        self.finished.append(phase)


@pytest.fixture(scope="module")
def int8_onnx(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    assert perf_main(["crops", str(folder / "images"), "--count", "20"]) == 0
    quantization = Quantization(folder / "images", "minmax", min_agreement=0)
    request = tiny_request(
        folder / "models", formats=("onnx",), precision="int8", quantization=quantization
    )
    (outcome,) = export(request, QUIET)
    assert outcome.manifest.tools[rtx.PACKAGE] == VERSION
    return outcome.artifact


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def changed(half_onnx, tmp_path):
    """A function that changes the FP16 graph and returns the path of the new file."""

    def change(edit) -> Path:
        model = onnx.load(half_onnx)
        edit(model)
        onnx.save(model, tmp_path / "changed.onnx")
        return tmp_path / "changed.onnx"

    return change


@pytest.mark.parametrize("largest", [1, 4, 32])
def test_fp16_is_built_for_every_maximum_batch(half_onnx, largest):
    assert rtx.check(half_onnx, replace(PROFILE, opt=largest, max=largest)) == VERSION


def test_a_build_tells_its_progress(half_onnx):
    recorder = Recorder()
    assert len(rtx.build(half_onnx, PROFILE, ("8.9",), recorder)) > 100_000
    assert recorder.steps > 10 and sorted(recorder.started) == sorted(recorder.finished)


def test_int8_is_built(int8_onnx):
    assert rtx.check(int8_onnx, PROFILE) == VERSION


def with_unknown_operator(model) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type, node.name = "Unique", "odd_one"


def with_wrong_weights(model) -> None:
    weights = next(each for each in model.graph.initializer if len(each.dims) == 4)
    values = numpy_helper.to_array(weights).astype(np.int32)
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))


def with_mixed_types(model) -> None:
    weights = next(each for each in model.graph.initializer if len(each.dims) == 4)
    values = numpy_helper.to_array(weights).astype(np.float32)
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))


@pytest.mark.parametrize("edit", [with_unknown_operator, with_wrong_weights, with_mixed_types])
def test_graphs_that_nvidia_refuses(changed, edit):
    with pytest.raises(
        BuildError, match=f"{rtx.PRODUCT} {VERSION} (cannot read changed.onnx|built no)"
    ):
        rtx.check(changed(edit), PROFILE)


def test_the_node_at_fault_is_named(changed):
    with pytest.raises(BuildError, match=r"node odd_one \(Unique\)"):
        rtx.check(changed(with_unknown_operator), PROFILE)


def test_an_opset_that_does_not_exist_is_refused_by_our_own_gate_only(changed):
    def newer(model) -> None:
        model.opset_import[0].version = 99

    graph = changed(newer)
    assert rtx.check(graph, PROFILE) == VERSION
    with pytest.raises(BuildError, match="opset 99, and tritonserver .* reads 22"):
        check_onnx(graph, FP16, release(TRITON_RELEASE))


def test_a_zero_point_that_is_not_zero(int8_onnx, tmp_path):
    model = onnx.load(int8_onnx)
    node = next(each for each in model.graph.node if each.op_type == "QuantizeLinear")
    zero = numpy_helper.from_array(np.array(3, np.int8), "three")
    model.graph.initializer.append(zero)
    node.input[2] = "three"
    onnx.save(model, tmp_path / "zero.onnx")
    with pytest.raises(BuildError, match="cannot read zero.onnx|built no"):
        rtx.check(tmp_path / "zero.onnx", PROFILE)


def test_shapes_that_do_not_fit(half_onnx, tmp_path):
    with pytest.raises(
        BuildError, match=r"the ONNX has an input INPUT__0 of shape \[-1, 3, 64, 64\]"
    ):
        rtx.check(half_onnx, replace(PROFILE, dims=(3, 32, 32)))
    with pytest.raises(BuildError, match="does not take the shapes"):
        rtx.check(half_onnx, replace(PROFILE, opt=8, max=4))


@pytest.mark.parametrize("capability", ["9.0", "10.0", "1.0"])
def test_gpus_that_it_builds_nothing_for(half_onnx, capability):
    with pytest.raises(BuildError, match=f"builds nothing for compute capability {capability}"):
        rtx.build(half_onnx, PROFILE, (capability,))


@pytest.fixture
def interrupting() -> Iterator[Recorder]:
    """A watcher that sends this process SIGINT at the first step of a build, once."""
    heard = threading.Event()

    def interrupt(number, frame) -> None:
        heard.set()
        raise KeyboardInterrupt

    def at_step() -> None:
        if not heard.is_set():
            os.kill(os.getpid(), signal.SIGINT)
            assert heard.wait(600)

    before = signal.signal(signal.SIGINT, interrupt)
    yield Recorder(at_step)
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_the_middle_of_a_build(half_onnx, interrupting):
    with pytest.raises(KeyboardInterrupt):
        rtx.build(half_onnx, PROFILE, (), interrupting)
    assert interrupting.steps >= 1


def test_ctrl_c_in_the_middle_of_an_export_leaves_no_file(tmp_path, interrupting):
    class Watched(Reporter):
        @contextmanager
        def phases(self):
            yield interrupting

    with pytest.raises(KeyboardInterrupt):
        export(tiny_request(tmp_path / "models", formats=(UNPROVEN,)), Watched(quiet=True))
    assert interrupting.steps >= 1
    assert list(tmp_path.iterdir()) == []


def test_progress_that_cannot_be_shown_ends_the_build(half_onnx):
    def fail() -> None:
        raise ValueError("the terminal is gone")

    with pytest.raises(BuildError, match="could not be shown: ValueError: the terminal is gone"):
        rtx.build(half_onnx, PROFILE, (), Recorder(fail))


def test_an_engine_that_nobody_has_run(root):
    (outcome,) = export(tiny_request(root, formats=(UNPROVEN,)), QUIET)
    facts = manifest.load(outcome.folder)
    assert facts.unproven and facts.parity == {"unproven": True}
    assert facts.tools[rtx.PACKAGE] == VERSION
    described = json.loads(outcome.artifact.with_name("model.engine.json").read_text())
    assert described["compute_capabilities"] == ["8.0", "8.6", "8.9", "12.0"]
    assert described["engine_sha256"] == sha256(outcome.artifact)
    assert described["profile"]["max"] == 4 and described["tensorrt_rtx"] == VERSION
    own = config.from_text((outcome.folder.parent / "config.pbtxt").read_text())
    assert own.backend == "tensorrt_rtx"
    assert own.parameters["parity.unproven"].string_value == "true"
    with pytest.raises(ArtifactError, match="runs on a GPU only, not on cpu"):
        runtimes.load("tensorrt_rtx", outcome.artifact, {})


def test_an_engine_that_takes_pixels(root):
    pixels = replace(PREPROCESSING, layout=PIXELS)
    (outcome,) = export(tiny_request(root, formats=(UNPROVEN,), preprocessing=pixels), QUIET)
    described = json.loads(outcome.artifact.with_name("model.engine.json").read_text())
    assert described["profile"]["dims"] == [64, 64, 3]


def test_without_a_gpu_it_is_not_published_unasked(root):
    with pytest.raises(MissingHardware, match=r"a GPU of compute capability 8.0 or .* `unproven`"):
        export(tiny_request(root, formats=("tensorrt_rtx",)), QUIET)
    assert not root.exists()


def test_a_server_without_a_gpu_serves_the_others(root):
    export(tiny_request(root, formats=(UNPROVEN,)), QUIET)
    with pytest.raises(NothingToServe, match="^tiny_tensorrt_rtx_fp16 cannot be served: "):
        Server(root).start()
    export(tiny_request(root, formats=("torchscript",)), QUIET)
    notes: list[str] = []
    with Server(root, ports=FREE_PORTS, note=notes.append) as server:
        assert [model.name for model in server.models] == ["tiny_torchscript"]
        assert client_main(["health", "--url", server.url]) == 0
    assert [note.partition(": the config")[0] for note in notes] == [
        "left out: tiny_tensorrt_rtx_fp16"
    ]
    with pytest.raises(NothingToServe, match="^tiny_tensorrt_rtx_fp16 cannot be served: "):
        Server(root, only=["tiny_tensorrt_rtx_fp16"]).start()


@pytest.mark.parametrize("named", [("8.9x",), ("89",), ("7.5", "8.9")])
def test_compute_capabilities_that_cannot_be(named):
    with pytest.raises(OptionError, match="compute_capability"):
        TensorRTRtx(named)
