"""The runtime adapters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from server import runtimes
from server.errors import ArtifactError
from server.runtimes.base import flag, thread_count
from tests.conftest import onnx_convolution

ARTIFACTS = {"torchscript": "model.pt", "onnxruntime": "model.onnx", "openvino": "model.xml"}


@pytest.fixture(params=ARTIFACTS)
def runtime_and_artifact(request, exported):
    filename = ARTIFACTS[request.param]
    return request.param, next(
        outcome.folder / filename for outcome in exported if outcome.artifact.name == filename and outcome.model.startswith("tiny")
    )


def load(runtime_and_artifact: tuple[str, Path]) -> runtimes.Runtime:
    return runtimes.load(*runtime_and_artifact, parameters={})


def test_the_artifact_tells_its_tensors(runtime_and_artifact):
    model = load(runtime_and_artifact)
    assert (model.input.name, model.input.dims) == ("INPUT__0", (3, 64, 64))
    assert (model.output.name, model.output.dims) == ("OUTPUT__0", (1000,))


def test_read_only_input_is_taken_as_triton_gives_it(runtime_and_artifact):
    model = load(runtime_and_artifact)
    batch = np.random.default_rng(0).standard_normal((2, 3, 64, 64), dtype=np.float32)
    batch.flags.writeable = False
    answer = model.run(batch)
    assert (answer.shape, answer.dtype) == ((2, 1000), np.float32)
    np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)


def test_a_damaged_artifact(runtime_and_artifact, tmp_path):
    name, artifact = runtime_and_artifact
    broken = tmp_path / artifact.name
    broken.write_bytes(artifact.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=f"{broken} cannot be loaded"):
        runtimes.load(name, broken, {})


def test_a_missing_artifact(runtime_and_artifact, tmp_path):
    with pytest.raises(ArtifactError, match="nowhere cannot be loaded"):
        runtimes.load(runtime_and_artifact[0], tmp_path / "nowhere", {})


def test_onnx_runtime_honours_thread_parameters(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_convolution((3, 4, 4)))
    seen = []
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, **rest: seen.append(options) or session(path, options, **rest)
    )
    runtimes.load("onnxruntime", path, {"intra_op_thread_count": "3", "inter_op_thread_count": "2", "execution_mode": "1"})
    assert (seen[0].intra_op_num_threads, seen[0].inter_op_num_threads) == (3, 2)
    assert seen[0].execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL


def test_torchscript_honours_thread_parameters(exported):
    before = torch.get_num_threads()
    try:
        artifact = next(outcome.folder / "model.pt" for outcome in exported if outcome.model == "tiny_torchscript")
        runtimes.load("torchscript", artifact, {"INTRA_OP_THREAD_COUNT": "1"})
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_cuda_without_cuda_is_an_error_that_names_the_package(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_convolution((3, 4, 4)))
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        runtimes.load("onnxruntime", path, {}, "cuda:0")
    else:
        with pytest.raises(ArtifactError, match="install onnxruntime-gpu"):
            runtimes.load("onnxruntime", path, {}, "cuda:0")


@pytest.mark.parametrize(("text", "count"), [("4", 4), ("0", 0), ("-1", 0), ("", 0)])
def test_thread_counts_are_read_as_the_backends_read_them(text, count):
    assert thread_count({"n": text}, "n") == count
    assert thread_count({}, "n") == 0


def test_parameters_that_cannot_be_read():
    with pytest.raises(ArtifactError, match="n must be a whole number, not 'two'"):
        thread_count({"n": "two"}, "n")
    with pytest.raises(ArtifactError, match="f must be true or false, not 'maybe'"):
        flag({"f": "maybe"}, "f", default=True)
