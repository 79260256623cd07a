"""TensorRT as a format: plans built here, brought from other machines, or built in Docker."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seresnext101_triton.client.images import load_image, sample_photographs
from seresnext101_triton.export.config import from_text
from seresnext101_triton.export.errors import BuildError, MissingHardware, OptionError, ParityError
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.tensorrt import plan, trtexec
from seresnext101_triton.export.tensorrt.format import TensorRT
from seresnext101_triton.export.tensorrt.plan import Tuning
from seresnext101_triton.server import gpu as gpus
from seresnext101_triton.server import runtimes
from seresnext101_triton.server.errors import ArtifactError, ReleaseError
from tests.conftest import PREPROCESSING, QUIET, tiny_request
from tests.export.tensorrt.conftest import H100, PROFILE, STANDINS

L4 = replace(H100, name="NVIDIA L4", compute_capability="8.9")


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "models"


def request(root: Path, *brought: Path, **changes):
    format = TensorRT(changes.pop("tuning", Tuning()), brought, changes.pop("in_image", False))
    return tiny_request(root, formats=(format,), **changes)


def on_an_l4(monkeypatch, tensorrt) -> None:
    monkeypatch.setattr(gpus, "find", lambda: L4)
    tensorrt(gpu="sm89")


def test_a_plan_is_built_proven_and_published(h100, root):
    (outcome,) = export(request(root), QUIET)
    assert outcome.model == "tiny_tensorrt_fp16"
    assert sorted(path.name for path in outcome.folder.iterdir()) == [
        "manifest.json",
        "model.plan",
        "model.plan.json",
    ]
    facts = outcome.manifest
    assert (facts.precision, facts.parity["device"], facts.parity["batches"]) == (
        "fp16",
        "cuda:0",
        (1, 2, 4),
    )
    assert 0 < facts.parity["relative_error"] < facts.parity["bound"] == 1e-2
    assert plan.read(outcome.artifact).parity == json.loads(json.dumps(facts.parity))
    config = from_text((root / outcome.model / "config.pbtxt").read_text())
    assert config.platform == "tensorrt_plan"
    assert [spec.batch_size for spec in config.optimization.cuda.graph_spec] == [1, 2, 3, 4]
    assert not config.cc_model_filenames
    assert [path.name for path in root.parent.iterdir() if path.name.startswith(".")] == []


def test_it_is_not_built_twice(h100, root, tensorrt):
    assert export(request(root), QUIET)[0].made
    assert not export(request(root), QUIET)[0].made
    tensorrt("11.1.0.106")
    assert export(request(root, tuning=Tuning(level=4)), QUIET)[0].made


def test_another_tensorrt_makes_another_plan(h100, root, tensorrt):
    export(request(root), QUIET)
    tensorrt("10.16.1.11")
    (outcome,) = export(request(root, target="26.05"), QUIET)
    assert (outcome.version, outcome.made, outcome.manifest.triton) == (2, True, "26.05")


def test_fp32(h100, root):
    (outcome,) = export(request(root, precision="fp32"), QUIET)
    assert outcome.model == "tiny_tensorrt"
    assert outcome.manifest.parity["bound"] == 1e-5
    assert outcome.manifest.ranges is None


def test_the_onnx_is_made_once_for_all_that_need_it(h100, root, monkeypatch):
    from seresnext101_triton.export.onnx import writer

    made = []
    honest = writer.write
    monkeypatch.setattr(writer, "write", lambda *facts: made.append(facts) or honest(*facts))
    outcomes = export(
        tiny_request(root, formats=("onnx", "onnx_trt", "tensorrt"), precision="fp16"), QUIET
    )
    assert [outcome.model for outcome in outcomes] == [
        "tiny_onnx_fp16",
        "tiny_onnx_trt_fp16",
        "tiny_tensorrt_fp16",
    ]
    assert len(made) == 1
    assert (
        plan.read(outcomes[2].artifact).onnx_sha256 == outcomes[0].manifest.artifacts[0]["sha256"]
    )


def test_a_plan_that_answers_wrongly_is_not_published(h100, root, monkeypatch):
    from seresnext101_triton.server.runtimes import tensorrt as runtime

    honest = runtime.TensorRT.run
    monkeypatch.setattr(
        runtime.TensorRT, "run", lambda self, batch: np.roll(honest(self, batch), 1, axis=1)
    )
    with pytest.raises(ParityError, match="model.plan does not answer as the network"):
        export(request(root), QUIET)
    assert not root.exists()


def test_a_plan_that_the_target_cannot_load_is_not_even_built(h100, root, tensorrt):
    tensorrt("11.4.0.106")
    with pytest.raises(
        ReleaseError, match=r"26.07 has TensorRT 11.1.0.106 .* pip install 'tensorrt==11.1.0.106'"
    ):
        export(request(root), QUIET)
    assert not root.exists()
    tensorrt("10.16.1.11")
    assert export(request(root, tuning=Tuning(version_compatible=True)), QUIET)


def test_without_a_gpu(root):
    with pytest.raises(
        MissingHardware,
        match=r"tensorrt is made and proven on the machine that serves it, "
        r"and this one lacks an NVIDIA GPU",
    ):
        export(request(root), QUIET)
    assert not root.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tuning": Tuning(opt_batch=9)}, "`opt_batch` 9 is over the maximum batch, 4"),
        ({"precision": "bf16"}, "tensorrt is not exported in bf16: choose from fp32, fp16"),
        ({"precision": "int4"}, "unknown precision int4: choose from fp32, fp16, bf16"),
        ({"precision": "fp32", "fp32_squeeze": True}, "`fp32_squeeze` is for FP16"),
    ],
)
def test_options_that_do_not_go_together(root, options, message):
    with pytest.raises(OptionError, match=message):
        request(root, **options)


def test_tuning_out_of_range():
    for options, message in (
        ({"level": 6}, "0 to 5"),
        ({"opt_batch": -1}, "negative"),
        ({"hardware": "any"}, "one of same,"),
    ):
        with pytest.raises(OptionError, match=message):
            Tuning(**options)


# Several GPUs


@pytest.fixture
def from_l4(h100, tensorrt, tmp_path, monkeypatch) -> Path:
    """A plan that an L4's machine has built and proven; the machine is that of the H100 again."""
    with monkeypatch.context() as patch:
        on_an_l4(patch, tensorrt)
        (outcome,) = export(request(tmp_path / "l4" / "models"), QUIET)
    tensorrt()
    return outcome.artifact


def test_plans_for_several_gpus(h100, root, from_l4):
    (outcome,) = export(request(root, from_l4), QUIET)
    assert [artifact["file"] for artifact in outcome.manifest.artifacts] == [
        "model_sm89.plan",
        "model_sm90.plan",
    ]
    config = from_text((root / outcome.model / "config.pbtxt").read_text())
    assert dict(config.cc_model_filenames) == {"8.9": "model_sm89.plan", "9.0": "model_sm90.plan"}
    assert plan.read(outcome.folder / "model_sm89.plan").gpu == "NVIDIA L4"
    proven = plan.read(outcome.folder / "model_sm90.plan").parity
    assert json.loads(json.dumps(outcome.manifest.parity)) == proven
    assert not export(request(root, from_l4), QUIET)[0].made


def test_a_machine_without_a_gpu_publishes_what_others_have_proven(
    h100, root, from_l4, monkeypatch
):
    monkeypatch.setattr(gpus, "find", lambda: None)
    (outcome,) = export(request(root, from_l4), QUIET)
    assert outcome.artifact.name == "model.plan"
    assert outcome.manifest.parity == plan.read(from_l4).parity


def test_a_plan_of_other_weights(h100, root, from_l4):
    with pytest.raises(
        BuildError,
        match=r"model.plan was built from another ONNX file: other weights, options or tools",
    ):
        export(request(root, from_l4, weights="seeded:1"), QUIET)


def test_a_plan_of_other_shapes(h100, root, from_l4):
    facts = plan.read(from_l4)
    replace(facts, profile=replace(facts.profile, max=2)).write(from_l4)
    with pytest.raises(
        BuildError, match=r"takes batches to 2 of \[3, 64, 64\], not batches to 4 of \[3, 64, 64\]"
    ):
        export(request(root, from_l4), QUIET)


def test_a_plan_that_was_never_proven(h100, root, from_l4):
    replace(plan.read(from_l4), parity={}).write(from_l4)
    with pytest.raises(
        BuildError, match=r"model_sm89.plan was built for NVIDIA L4 and never proven"
    ):
        export(request(root, from_l4), QUIET)


def test_a_plan_for_a_gpu_that_has_one(h100, root, from_l4, tmp_path):
    copy = tmp_path / "copy" / "model.plan"
    copy.parent.mkdir()
    for path in (from_l4, plan.sidecar(from_l4)):
        (copy.parent / path.name).write_bytes(path.read_bytes())
    with pytest.raises(BuildError, match=r"are both for compute capability 8.9: name one of them"):
        export(request(root, from_l4, copy), QUIET)


def test_a_plan_without_its_sidecar_or_with_anothers(h100, root, from_l4, tmp_path):
    with pytest.raises(
        BuildError,
        match=r"nowhere.plan.json: No such file or directory; a plan is used together with",
    ):
        export(request(root, tmp_path / "nowhere.plan"), QUIET)
    from_l4.write_bytes(from_l4.read_bytes() + b" ")
    with pytest.raises(
        BuildError,
        match=r"model.plan is not the plan that model.plan.json describes: copy both again",
    ):
        export(request(root, from_l4), QUIET)
    plan.sidecar(from_l4).write_text("{}")
    with pytest.raises(BuildError, match=r"model.plan.json does not describe a plan"):
        export(request(root, from_l4), QUIET)
    assert not root.exists()


# The runtime


def test_the_runtime_answers_and_names_its_tensors(h100, root):
    (outcome,) = export(request(root), QUIET)
    model = runtimes.load("tensorrt", outcome.artifact, {}, "cuda:0")
    assert (model.input.name, model.input.dims, model.output.name, model.output.dims) == (
        "INPUT__0",
        (3, 64, 64),
        "OUTPUT__0",
        (1000,),
    )
    images = np.stack([PREPROCESSING(load_image(path)) for path in sample_photographs()])
    images.setflags(write=False)
    np.testing.assert_allclose(model.run(images).sum(axis=1), 1, rtol=1e-5)


def test_what_the_runtime_refuses(h100, root, tensorrt, tmp_path):
    (outcome,) = export(request(root), QUIET)
    model = runtimes.load("tensorrt", outcome.artifact, {}, "cuda:0")
    with pytest.raises(ArtifactError, match="a batch of 5 is over the plan's maximum, 4"):
        model.run(np.zeros((5, 3, 64, 64), np.float32))
    with pytest.raises(ArtifactError, match=r"the plan cannot take a batch of \[1, 3, 65, 64\]"):
        model.run(np.zeros((1, 3, 65, 64), np.float32))
    h100._failures = {"run"}
    with pytest.raises(ArtifactError, match="the plan cannot run"):
        model.run(np.zeros((1, 3, 64, 64), np.float32))
    h100._failures = {"context"}
    with pytest.raises(ArtifactError, match="the plan cannot make room for a run"):
        runtimes.load("tensorrt", outcome.artifact, {}, "cuda:0")
    with pytest.raises(ArtifactError, match="runs on a GPU only, not on cpu"):
        runtimes.load("tensorrt", outcome.artifact, {}, "cpu")
    with pytest.raises(ArtifactError, match="cannot be read: No such file"):
        runtimes.load("tensorrt", tmp_path / "nowhere", {}, "cuda:0")
    (tmp_path / "bad.plan").write_bytes(b"nothing")
    with pytest.raises(
        ArtifactError,
        match="cannot be loaded by TensorRT 11.1.0.106 on this GPU: "
        "The engine plan file is corrupt",
    ):
        runtimes.load("tensorrt", tmp_path / "bad.plan", {}, "cuda:0")
    for version, gpu, reason in (
        ("11.4.0.106", "sm90", "not compatible with this version"),
        ("11.1.0.106", "sm89", "incompatible device"),
    ):
        tensorrt(version, gpu)
        with pytest.raises(ArtifactError, match=reason):
            runtimes.load("tensorrt", outcome.artifact, {}, "cuda:0")


# The driver, trtexec and Docker: programs, so that what stands in for them is one too


def program(folder: Path, name: str, source: str) -> Path:
    """An executable Python script, first on PATH for whoever looks in this folder."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{source}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


TRTEXEC = """
import json, sys
options = dict(argument.removeprefix("--").partition("=")[::2] for argument in sys.argv[1:])
print("&&&& RUNNING TensorRT.trtexec [TensorRT v110100] [b106] #", *sys.argv)
if "bad" in options["onnx"]:
    print("[11/23/2026-10:00:00] [E] Error[4]: kaboom")
    sys.exit(1)
open(options["saveEngine"], "w").write(json.dumps(options))
tensors = [{"Format": "kLINEAR", "Datatype": "Half"}]
json.dump({"Layers": [{"Name": "conv1", "Inputs": tensors, "Outputs": tensors}]}, \
open(options["exportLayerInfo"], "w"))
"""

DOCKER = """
import pathlib, re, subprocess, sys, tempfile
arguments = sys.argv[1:]
mounts = [argument.removeprefix("--volume=").split(":")[:2] for argument in arguments \
if argument.startswith("--volume=")]
image = next(index for index, argument in enumerate(arguments) if argument.startswith("nvcr.io/"))
def outside(argument):
    for source, inside in mounts:
        for before in ("", "="):
            argument = re.sub(f"^(--cache)?{before}{inside}(?=/|$)", \
lambda found: (found[1] or "") + before + source, argument)
    return argument
command = [sys.executable, *map(outside, arguments[image + 1:])]
with tempfile.TemporaryDirectory() as root:
    for source, inside in mounts:
        if inside.startswith("/toolkit/"):
            part = pathlib.Path(root + inside)
            part.parent.mkdir(parents=True, exist_ok=True)
            part.symlink_to(source)
    sys.exit(subprocess.run(command, cwd=root + "/toolkit").returncode)
"""


def run_alone(arguments: list[str], driver: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    """`python3 -m export.tensorrt` in a process of its own, on a machine with the driver."""
    places = {
        "PATH": ":".join([*map(str, path), os.environ["PATH"]]),
        "LD_LIBRARY_PATH": str(driver),
    }
    command = [sys.executable, "-m", "seresnext101_triton.export.tensorrt", *arguments]
    return subprocess.run(
        command,
        env=os.environ | places,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def test_trtexec_builds_where_tensorrt_cannot_be_imported(half_onnx, tmp_path, cuda_driver):
    program(tmp_path / "bin", "trtexec", TRTEXEC)
    target = tmp_path / "model.plan"
    options = [
        "--dims=3x64x64",
        "--max-batch=4",
        "--opt-batch=2",
        "--workspace=256",
        "--version-compatible",
        f"--cache={tmp_path}",
    ]
    result = run_alone([str(half_onnx), str(target), *options], cuda_driver, tmp_path / "bin")
    assert result.returncode == 0, result.stderr
    assert "TensorRT 11.1.0.106, NVIDIA H100 80GB HBM3" in result.stdout
    facts = plan.read(target)
    assert (facts.builder, facts.tensorrt, facts.cuda, facts.compute_capability) == (
        "trtexec",
        "11.1.0.106",
        "13.3",
        "9.0",
    )
    given = json.loads(target.read_text())
    assert (given["minShapes"], given["optShapes"]) == ("INPUT__0:1x3x64x64", "INPUT__0:2x3x64x64")
    assert (given["maxShapes"], given["memPoolSize"]) == ("INPUT__0:4x3x64x64", "workspace:256")
    assert {"stronglyTyped", "noTF32", "skipInference", "versionCompatible"} <= set(given)
    assert {"fp16", "int8", "best"}.isdisjoint(given)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bin",
        "model.plan",
        "model.plan.json",
    ]


def test_trtexecs_own_error(half_onnx, tmp_path, cuda_driver):
    program(tmp_path / "bin", "trtexec", TRTEXEC)
    result = run_alone(
        [str(tmp_path / "bad.onnx"), str(tmp_path / "model.plan"), f"--cache={tmp_path}"],
        cuda_driver,
        tmp_path / "bin",
    )
    assert (result.returncode, result.stderr) == (
        65,
        "error: trtexec ended with code 1 and built no plan: Error[4]: kaboom\n",
    )


def test_alone_without_a_gpu_or_tensorrt(half_onnx, tmp_path, cuda_driver):
    arguments = [str(half_onnx), str(tmp_path / "model.plan")]
    assert run_alone(arguments, tmp_path).stderr == (
        "error: TensorRT builds on the GPU it builds for, and this machine has no NVIDIA GPU\n"
    )
    assert (
        run_alone(arguments, cuda_driver).stderr
        == "error: TensorRT is not installed: pip install '.[gpu]'\n"
    )
    assert run_alone([*arguments, "--dims=3by3"], tmp_path).returncode == 2


def test_what_builds_alone_needs_nothing_but_the_standard_library():
    """NVIDIA's image has no torch, onnx or rich."""
    missing = (
        "torch",
        "onnx",
        "numpy",
        "rich",
        "tritonclient",
        "PIL",
    )
    forbid = f"import sys\nfor name in {missing}: sys.modules[name] = None\n"
    code = f"{forbid}from seresnext101_triton.export.tensorrt import __main__, local, trtexec"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0
    )


@pytest.mark.parametrize(
    ("line", "version"),
    [("[TensorRT v101601] [b11]", "10.16.1.11"), ("[TensorRT v110100] [b106]", "11.1.0.106")],
)
def test_trtexec_tells_its_version(line, version):
    assert trtexec.version(f"&&&& RUNNING TensorRT.trtexec {line} # trtexec") == version
    with pytest.raises(BuildError, match="does not say which TensorRT"):
        trtexec.version("nothing")


def test_a_plan_is_built_in_nvidias_image(h100, root, tmp_path, monkeypatch, cuda_driver, capfd):
    from seresnext101_triton.export.reporting import Reporter

    docker = program(tmp_path / "bin", "docker", DOCKER)
    monkeypatch.setenv("PATH", str(docker.parent), prepend=":")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(cuda_driver))
    monkeypatch.setenv("PYTHONPATH", str(STANDINS))
    (outcome,) = export(request(root, in_image=True), Reporter())
    facts = plan.read(outcome.artifact)
    assert (facts.gpu, facts.builder, facts.profile.shapes) == (
        H100.name,
        "tensorrt",
        PROFILE.shapes,
    )
    assert facts.parity["device"] == "cuda:0"
    line = next(
        line for line in capfd.readouterr().err.splitlines() if line.startswith("docker run")
    )
    assert "--gpus=all" in line
    build = (
        "-m seresnext101_triton.export.tensorrt /onnx/fp16.onnx /plan/model.plan --precision=fp16"
    )
    assert f"nvcr.io/nvidia/tritonserver:26.07-py3 {build}" in line


def test_a_build_in_nvidias_image_that_fails(h100, root, tmp_path, monkeypatch, cuda_driver):
    docker = program(tmp_path / "bin", "docker", DOCKER)
    monkeypatch.setenv("PATH", str(docker.parent), prepend=":")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(cuda_driver))
    with pytest.raises(
        BuildError,
        match=r"the build in nvcr.io/nvidia/tritonserver:26.07-py3 ended with code 1: "
        r"TensorRT is not installed",
    ):
        export(request(root, in_image=True), QUIET)
    assert not root.exists()


def test_a_build_in_nvidias_image_that_could_not_be_proven_here(root, monkeypatch, tmp_path):
    program(tmp_path / "bin", "docker", "raise SystemExit('docker was run')")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    with pytest.raises(MissingHardware, match="this machine lacks an NVIDIA GPU"):
        export(request(root, in_image=True), QUIET)
    assert not root.exists()


def test_without_docker(h100, root, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingHardware, match="docker is not installed"):
        export(request(root, in_image=True), QUIET)
    assert not root.exists()
