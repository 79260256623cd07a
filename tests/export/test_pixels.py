"""`--input uint8`: models that take pixels and normalise them, in every format and precision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from seresnext101_triton.client.contract import PIXELS, OutputKind, Preprocessing
from seresnext101_triton.client.errors import ContractError
from seresnext101_triton.client.images import load_image, sample_photographs
from seresnext101_triton.client.served import read_served_model
from seresnext101_triton.export.config import from_text
from seresnext101_triton.export.errors import BuildError, ParityError
from seresnext101_triton.export.gate import Gate
from seresnext101_triton.export.material import Material
from seresnext101_triton.export.onnx import gate as onnx_gate
from seresnext101_triton.export.onnx import pixels, writer
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.precision import FP16, FP32, INT8
from seresnext101_triton.export.served import PixelNetwork, ServedNetwork
from seresnext101_triton.export.weights.seeded import seeded_network
from seresnext101_triton.server import runtimes
from seresnext101_triton.server.releases import release
from tests.conftest import PREPROCESSING, QUIET, TINY
from tests.trained import digits_request

pytestmark = pytest.mark.numeric

CONTRACT = replace(PREPROCESSING, layout=PIXELS)
RELEASE = release("26.07")


@pytest.fixture(scope="module")
def served():
    return ServedNetwork(seeded_network(TINY, 0), OutputKind.PROBABILITIES)


@pytest.fixture(scope="module")
def graph(served, tmp_path_factory):
    """The network as ONNX, with normalised input."""
    path = tmp_path_factory.mktemp("graph") / "fp32.onnx"
    writer.write(served.folded(), Material(served, FP32, 64, 4, RELEASE).example, 4, path)
    return path


def test_the_contract_says_what_the_input_is():
    assert (CONTRACT.shape, CONTRACT.dtype) == ((64, 64, 3), np.dtype(np.uint8))
    assert (PREPROCESSING.shape, PREPROCESSING.dtype) == ((3, 64, 64), np.dtype(np.float32))
    assert Preprocessing.from_parameters(CONTRACT.to_parameters()) == CONTRACT
    for path in sample_photographs():
        image = load_image(path)
        prepared = CONTRACT.prepared(image)
        assert prepared.shape == CONTRACT.shape and prepared.dtype == CONTRACT.dtype
        normalised = CONTRACT.normalised(prepared)
        assert normalised.tobytes() == PREPROCESSING.prepared(image).tobytes()


def test_every_format_answers_as_its_fp32_model(exported, pixel_models):
    """The parity gate has compared both with the network; here they are compared directly."""
    normal = {outcome.manifest.format: outcome for outcome in exported[:3]}
    images = [load_image(path) for path in sample_photographs()]
    for outcome in pixel_models:
        facts = outcome.manifest
        assert facts.model == f"tiny_{facts.format}_uint8"
        assert facts.tensors["input"] == {"name": "INPUT__0", "dims": [64, 64, 3]}
        adapter = {"torchscript": "torchscript", "onnx": "onnxruntime", "openvino": "openvino"}
        load = adapter[facts.format]
        takes_pixels, takes_values = (
            runtimes.load(load, each.artifact, {}) for each in (outcome, normal[facts.format])
        )
        assert takes_pixels.input.dtype == "uint8" and takes_values.input.dtype == "float32"
        found = takes_pixels.run(np.stack([CONTRACT.prepared(image) for image in images]))
        wanted = takes_values.run(np.stack([PREPROCESSING.prepared(image) for image in images]))
        assert np.abs(found - wanted).max() < 1e-5 and wanted.max() > 1e-3


def test_triton_and_its_clients_are_told(pixel_models):
    for outcome in pixel_models:
        text = (outcome.folder.parent / "config.pbtxt").read_text()
        assert "TYPE_UINT8" in text
        model = read_served_model(outcome.model, ["1"], from_text(text))
        assert model.dtype == np.uint8 and model.preprocessing == CONTRACT


@pytest.mark.parametrize(("now", "then"), [("TYPE_UINT8", "TYPE_FP32"), ("NHWC", "NCHW")])
def test_a_type_that_contradicts_the_layout_is_refused(now, then, pixel_models):
    text = (pixel_models[0].folder.parent / "config.pbtxt").read_text()
    config = from_text(text.replace(f'"{now}"', f'"{then}"').replace(f": {now}\n", f": {then}\n"))
    with pytest.raises(ContractError, match="its parameter 'preprocessing.layout' is N"):
        read_served_model("tiny", ["1"], config)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(CONTRACT, mean=(0.485, 0.456, 0.407)),
        replace(CONTRACT, std=(0.229, 0.224, 0.226)),
        replace(CONTRACT, mean=CONTRACT.mean[::-1], std=CONTRACT.std[::-1]),
    ],
    ids=["mean", "deviation", "BGR"],
)
def test_a_wrong_normalisation_does_not_pass_the_gate(wrong, served, graph, tmp_path):
    gate = Gate(served, CONTRACT, 4)
    pixels.prepend(graph, tmp_path / "right.onnx", CONTRACT)
    pixels.prepend(graph, tmp_path / "wrong.onnx", wrong)
    load = {
        name: runtimes.load("onnxruntime", tmp_path / f"{name}.onnx", {})
        for name in ("right", "wrong")
    }
    gate.check("onnx", load["right"])
    with pytest.raises(ParityError, match="does not answer as the network"):
        gate.check("onnx", load["wrong"])


def test_an_artifact_with_another_input_does_not_pass_the_gate(served, graph, tmp_path):
    pixels.prepend(graph, tmp_path / "pixels.onnx", CONTRACT)
    for contract, path in ((CONTRACT, graph), (PREPROCESSING, tmp_path / "pixels.onnx")):
        with pytest.raises(ParityError, match="and clients would send another type"):
            Gate(served, contract, 4).check("onnx", runtimes.load("onnxruntime", path, {}))


@pytest.mark.parametrize("precision", [FP32, FP16, FP16.with_fp32_squeeze()], ids=str)
def test_graphs_of_pixels_are_fit_for_tensorrt(precision, served, tmp_path):
    import torch

    dtype = getattr(torch, precision.made_in)
    network = served.folded().cast(dtype, fp32_squeeze=precision.fp32_squeeze)
    material = Material(network, precision, 64, 4, RELEASE)
    writer.write(network, material.example, 4, tmp_path / "values.onnx")
    pixels.prepend(tmp_path / "values.onnx", tmp_path / "pixels.onnx", CONTRACT)
    onnx_gate.check_onnx(tmp_path / "pixels.onnx", precision, RELEASE)
    eager = PixelNetwork(network, CONTRACT)
    images = np.stack([CONTRACT.pixels(load_image(path)) for path in sample_photographs()])
    found = runtimes.load("onnxruntime", tmp_path / "pixels.onnx", {}).run(images)
    assert np.abs(found - eager(torch.from_numpy(images)).numpy()).max() < 1e-2

    model = onnx.load(tmp_path / "pixels.onnx")
    model.graph.node[0].attribute[0].i = onnx.TensorProto.DOUBLE
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    onnx.save(model, tmp_path / "faulty.onnx")
    with pytest.raises(BuildError, match="OUTPUT__0 is UINT8, not FP32"):
        onnx_gate.check_onnx(tmp_path / "faulty.onnx", precision, RELEASE)


def test_int8_is_calibrated_before_the_normalisation(digits, tmp_path):
    """The quantised network is the same as with normalised input: only its entry differs."""
    request = digits_request(digits, tmp_path / "models", formats=("onnx", "openvino"))
    request = replace(request, preprocessing=replace(request.preprocessing, layout=PIXELS))
    for outcome in export(request, QUIET):
        assert outcome.model.endswith("_int8_uint8")
        parity = outcome.manifest.parity
        assert parity["top1"] >= 0.95 and parity["accuracy"] >= parity["least_accuracy"] > 0.9
    artifact = next((tmp_path / "models").glob("*/1/model.onnx"))
    onnx_gate.check_onnx(artifact, INT8, RELEASE)
    operators = [node.op_type for node in onnx.load(artifact).graph.node]
    assert operators[:6] == ["Cast", "Transpose", "Div", "Sub", "Div", "QuantizeLinear"]
