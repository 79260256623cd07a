"""From ONNX to plan. What `TensorRT for RTX` can show without a GPU is in `test_rtx.py`."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from seresnext101_triton.export.errors import BuildError, MissingHardware
from seresnext101_triton.export.precision import FP16, FP32
from seresnext101_triton.export.tensorrt import local, plan
from seresnext101_triton.export.tensorrt.inspection import check_precision, count_layers
from seresnext101_triton.export.tensorrt.plan import Tuning
from seresnext101_triton.server import gpu as gpus
from seresnext101_triton.server.digest import sha256
from tests.export.tensorrt.conftest import H100, PROFILE


class Notes:
    """A watcher that remembers."""

    def __init__(self):
        self.lines: list[str] = []
        self.phases: list[tuple] = []

    def start(self, phase, steps):
        self.phases.append(("start", phase, steps))

    def step(self, phase, done):
        self.phases.append(("step", phase, done))

    def finish(self, phase):
        self.phases.append(("finish", phase))


def build(
    onnx_file: Path,
    folder: Path,
    tuning: Tuning | None = None,
    notes: Notes | None = None,
    profile=PROFILE,
) -> plan.Plan:
    notes = notes or Notes()
    spec = plan.BuildSpec(
        onnx_file, folder / "model.plan", profile, tuning or Tuning(), FP16, folder / "cache"
    )
    return local.build(spec, notes, notes.lines.append)


def header(folder: Path) -> dict:
    return json.loads((folder / "model.plan").read_bytes().partition(b"\n")[0])


@pytest.mark.parametrize("version", ["10.16.1.11", "11.1.0.106"])
def test_a_plan_and_what_is_written_down_of_it(h100, tensorrt, half_onnx, tmp_path, version):
    tensorrt(version)
    notes = Notes()
    facts = build(
        half_onnx, tmp_path, Tuning(workspace_mib=512, level=5, hardware="ampere+"), notes
    )
    assert plan.read(tmp_path / "model.plan") == facts
    assert (facts.tensorrt, facts.gpu, facts.compute_capability) == (version, H100.name, "9.0")
    assert (facts.driver, facts.cuda, facts.builder) == (H100.driver, H100.cuda, "tensorrt")
    assert facts.onnx_sha256 == sha256(half_onnx)
    assert facts.plan_sha256 == sha256(tmp_path / "model.plan")
    assert facts.layers["half"] == len(onnx.load(half_onnx).graph.node)
    assert facts.layers["int8"] == facts.layers["float"] == 0
    made = header(tmp_path)
    assert made["shapes"] == {"INPUT__0": [[1, 3, 64, 64], [4, 3, 64, 64], [4, 3, 64, 64]]}
    assert (made["level"], made["pools"], made["hardware"], made["compatible"]) == (
        5,
        {"WORKSPACE": 512 << 20},
        1,
        False,
    )
    assert notes.phases[1:4] == [
        ("start", "Timing kernels", 3),
        ("step", "Timing kernels", 1),
        ("step", "Timing kernels", 2),
    ]
    assert notes.phases[-1] == ("finish", "Building engine")
    assert not notes.lines


def test_a_version_compatible_plan(h100, half_onnx, tmp_path):
    assert build(half_onnx, tmp_path, Tuning(version_compatible=True)).tuning.version_compatible
    assert header(tmp_path)["compatible"]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("builder", "cannot use this GPU: CUDA initialization failure with error: 35"),
        (
            "build",
            r"built no plan: Error Code 10: Internal Error "
            r"\(Could not find any implementation for node conv1.\)",
        ),
        ("shapes", r"the plan takes the shapes .*, not "),
    ],
)
def test_what_tensorrt_refuses(h100, half_onnx, tmp_path, failure, message):
    h100._failures = {failure}
    with pytest.raises(BuildError, match=message):
        build(half_onnx, tmp_path)
    assert not list(tmp_path.glob("model.plan*"))


def test_a_plan_without_half_precision_is_no_fp16_plan(h100, half_onnx, tmp_path):
    h100._half = "Float"
    with pytest.raises(
        BuildError, match="0 of the plan's 78 layers run in half precision, 78 in FP32"
    ):
        build(half_onnx, tmp_path)
    assert not list(tmp_path.glob("model.plan*"))


def test_timings_are_kept_for_each_version_and_gpu(h100, tensorrt, half_onnx, tmp_path):
    build(half_onnx, tmp_path)
    tensorrt("10.16.1.11")
    build(half_onnx, tmp_path)
    assert {path.name: path.read_text() for path in (tmp_path / "cache").iterdir()} == {
        "tensorrt-11.1.0.106-nvidia-h100-80gb-hbm3-sm90.cache": "11.1.0.106 sm90",
        "tensorrt-10.16.1.11-nvidia-h100-80gb-hbm3-sm90.cache": "10.16.1.11 sm90",
    }


def test_a_timing_cache_of_another_gpu_is_said_and_made_anew(h100, half_onnx, tmp_path):
    build(half_onnx, tmp_path)
    (cache,) = (tmp_path / "cache").iterdir()
    cache.write_text("11.1.0.106 sm89")
    notes = Notes()
    build(half_onnx, tmp_path, notes=notes)
    assert [line.partition(str(cache))[2] for line in notes.lines] == [
        " is not of this GPU and this TensorRT: it is made anew"
    ]
    assert cache.read_text() == "11.1.0.106 sm90"


def test_no_gpu(tensorrt, half_onnx, tmp_path, monkeypatch):
    tensorrt()
    monkeypatch.setattr(gpus, "find", lambda: None)
    with pytest.raises(MissingHardware, match="no NVIDIA GPU"):
        build(half_onnx, tmp_path)


def test_no_tensorrt(half_onnx, tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "find", lambda: H100)
    with pytest.raises(MissingHardware, match="TensorRT is not installed"):
        build(half_onnx, tmp_path)


def layer(*types: str, key: str = "Datatype") -> dict:
    return {"Name": "x", "Inputs": [{"Name": "x", key: kind} for kind in types], "Outputs": []}


def test_layers_are_counted_in_both_schemas():
    ten = [
        layer("Row major linear FP16 format", key="Format/Datatype"),
        layer("Float", key="Format/Datatype"),
    ]
    eleven = [layer("Float", "Half"), layer("Int8", "Half"), layer("Int32"), layer()]
    assert count_layers(json.dumps({"Layers": ten, "Bindings": ["x"]})) == {
        "half": 1,
        "int8": 0,
        "float": 1,
        "other": 0,
    }
    assert count_layers(json.dumps({"Layers": eleven, "I/O Tensors": []})) == {
        "half": 1,
        "int8": 1,
        "float": 0,
        "other": 2,
    }


def test_layers_without_details():
    with pytest.raises(BuildError, match="detailed profiling verbosity"):
        count_layers(json.dumps({"Layers": ["conv1", "conv2"]}))


def test_how_much_of_a_plan_must_be_in_half_precision():
    few = {"half": 1, "int8": 0, "float": 9, "other": 0}
    with pytest.raises(BuildError, match="1 of the plan's 10 layers"):
        check_precision(few, FP16)
    check_precision(few, FP32)
    check_precision({"half": 4, "int8": 0, "float": 4, "other": 9}, FP16)
