"""The runtime adapters with artifacts of one layer, which take no time to make and to run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from seresnext101_triton.server import runtimes
from seresnext101_triton.server.errors import ArtifactError
from seresnext101_triton.server.runtimes import TensorSpec, int8
from seresnext101_triton.server.runtimes.openvino import OpenVino
from seresnext101_triton.server.runtimes.openvino_package import openvino
from seresnext101_triton.server.runtimes.torchscript import TENSORS_ENTRY

BATCH = np.arange(12, dtype=np.float32).reshape(4, 3)
ops = openvino.opset13


def read_only(batch: np.ndarray) -> np.ndarray:
    batch = batch.copy()
    batch.flags.writeable = False
    return batch


@pytest.mark.parametrize("parameters", [{}, {"DISABLE_OPTIMIZED_EXECUTION": "true"}])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_torchscript_tells_its_tensors_and_runs(tmp_path, parameters, dtype):
    class Doubled(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 2.0 * images.float() + (1.0 if self.training else 0.0)

    module = torch.jit.script(Doubled())
    known = {
        "INPUT__0": {"dims": [3], "dtype": dtype},
        "OUTPUT__0": {"dims": ["3"], "dtype": "float32"},
    }
    path = tmp_path / "model.pt"
    torch.jit.save(module, str(path), _extra_files={TENSORS_ENTRY: json.dumps(known)})
    model = runtimes.load("torchscript", path, parameters)
    assert model.input == TensorSpec("INPUT__0", (3,), -1, dtype)
    assert model.output == TensorSpec("OUTPUT__0", (3,))
    given = read_only(BATCH.astype(dtype))
    for batch in (given, given[::2], given[:0]):
        answer = model.run(batch)
        assert answer.dtype == np.float32
        np.testing.assert_array_equal(answer, 2 * batch.astype(np.float32))


def test_torchscript_of_another_network_is_an_error_with_its_reason(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match=r"model\.pt cannot be loaded as TorchScript: \S+"):
        runtimes.load("torchscript", path, {})
    with pytest.raises(ArtifactError, match="parameter INFERENCE_MODE must be true or false"):
        runtimes.load("torchscript", path, {"INFERENCE_MODE": "perhaps"})


def ir(folder: Path, *inputs: openvino.op.Parameter, kind: object = np.float32) -> Path:
    """A model of OpenVINO that adds up its inputs and twice their sum, as `kind`."""
    total = inputs[0] if len(inputs) == 1 else ops.add(inputs[0], inputs[1])
    floats = ops.convert(total, "f32")
    doubled = ops.convert(ops.multiply(floats, ops.constant(np.float32(2))), openvino.Type(kind))
    doubled.output(0).set_names({"OUTPUT__0"})
    for number, each in enumerate(inputs):
        each.output(0).set_names({f"INPUT__{number}"})
    path = folder / "model.xml"
    openvino.save_model(openvino.Model([ops.result(doubled)], list(inputs)), path, False)
    return path


def values(shape: object, kind: object = np.float32) -> openvino.op.Parameter:
    return ops.parameter(openvino.PartialShape(shape), kind)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_openvino_tells_its_tensors_and_runs(tmp_path, dtype):
    model = runtimes.load("openvino", ir(tmp_path, values([-1, 3], np.dtype(dtype))), {})
    assert isinstance(model, OpenVino)
    assert model.input == TensorSpec("INPUT__0", (3,), -1, dtype)
    assert model.output == TensorSpec("OUTPUT__0", (3,))
    assert model.precision in ("f32", "float")
    given = read_only(BATCH.astype(dtype))
    first = model.run(given)
    second = model.run(given[::-1][::2])
    np.testing.assert_array_equal(first, 2 * BATCH)  # the second run has not overwritten it
    np.testing.assert_array_equal(second, 2 * BATCH[::-1][::2])
    fixed = runtimes.load("openvino", ir(tmp_path, values([2, 3])), {})
    assert fixed.input == TensorSpec("INPUT__0", (3,), 2)


@pytest.mark.parametrize(
    ("shapes", "kind", "message"),
    [
        ([[-1, 3], [-1, 3]], np.float32, "must have one input, an FP32 or UINT8 tensor .*INPUT__1"),
        ([[-1, 3]], np.int32, r"must have one output, an FP32 tensor .* i32 \[\?,3\]"),
        ([[]], np.float32, "must have one input, .* with a batch axis"),
        (["..."], np.float32, "cannot be loaded by OpenVINO: .*dynamic rank"),
        ([[(1, 8), 3]], np.float32, r"the axis 1\.\.8 must have one length, or any length from 1"),
    ],
)
def test_openvino_models_that_triton_could_not_feed(tmp_path, shapes, kind, message):
    path = ir(tmp_path, *(values(shape) for shape in shapes), kind=kind)
    with pytest.raises(ArtifactError, match=rf"model\.xml.*{message}"):
        runtimes.load("openvino", path, {})
    with pytest.raises(ArtifactError, match="is served on CPUs only, and not on cuda:1"):
        runtimes.load("openvino", path, {}, "cuda:1")


def convolution(folder: Path, *, quantized: bool) -> Path:
    """A convolution of 64 channels in OpenVINO, whose weights are all 127."""
    images = values([-1, 64, 2, 2])
    weights = ops.convert(ops.constant(np.full((64, 64, 1, 1), 127, np.int8)), "f32")
    bounds = (np.float32(bound) for bound in (0, 255, 0, 255))
    given = ops.fake_quantize(images, *bounds, 256) if quantized else images
    scaled = ops.multiply(weights, ops.constant(np.ones((64, 1, 1, 1), np.float32)))
    sums = ops.convolution(given, scaled, [1, 1], [0, 0], [0, 0], [1, 1])
    images.output(0).set_names({"INPUT__0"})
    sums.output(0).set_names({"OUTPUT__0"})
    openvino.save_model(openvino.Model([ops.result(sums)], [images]), folder / "model.xml", False)
    return folder / "model.xml"


def test_int8_is_computed_in_floating_point_where_the_integer_kernels_saturate(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(int8, "adds_exactly", lambda: False)
    model = runtimes.load("openvino", convolution(tmp_path, quantized=True), {})
    assert isinstance(model, OpenVino) and model.ran_in == "fp32"
    assert "int8" not in model.kernels("Convolution")
    found = model.run(np.full((1, 64, 2, 2), 255, np.float32))
    np.testing.assert_array_equal(found, 255.0 * 127 * 64)


def test_in_which_type_convolutions_were_computed(tmp_path):
    """What the processor has units for; the names of the kernels say it."""
    of_bytes = runtimes.load("openvino", convolution(tmp_path, quantized=True), {})
    hint = {"HINT_BF16": "YES"}
    half = runtimes.load("openvino", convolution(tmp_path, quantized=False), hint)
    for model, kind in ((of_bytes, "int8"), (half, "bf16")):
        assert isinstance(model, OpenVino)
        assert model.ran_in == (kind if kind in model.kernels("Convolution") else "fp32")
        assert sum(model.kernels("Convolution").values()) == 1
