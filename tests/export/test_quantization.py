"""INT8: the rules for the graph, the choice of ranges, and the check of the accuracy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from seresnext101_triton.client.contract import OutputKind
from seresnext101_triton.client.images import load_image
from seresnext101_triton.export.cli import main
from seresnext101_triton.export.errors import BuildError, CalibrationError, OptionError, ParityError
from seresnext101_triton.export.gate import Gate
from seresnext101_triton.export.onnx.gate import check_onnx
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.precision import INT8
from seresnext101_triton.export.quantization import METHODS, Quantization, qdq, sensitivity
from seresnext101_triton.export.quantization.statistics import Histogram, Statistics
from seresnext101_triton.export.quantization.thresholds import threshold
from seresnext101_triton.export.samples import Samples
from seresnext101_triton.export.served import ServedNetwork
from seresnext101_triton.export.weights.checkpoint import FileSource
from seresnext101_triton.server import runtimes
from seresnext101_triton.server.releases import release
from seresnext101_triton.server.runtimes import Runtime, TensorSpec
from seresnext101_triton.server.runtimes.int8 import adds_exactly
from seresnext101_triton.server.runtimes.openvino import OpenVino
from tests import trained
from tests.conftest import QUIET
from tests.trained import digits_request

pytestmark = pytest.mark.numeric

RELEASE = release("26.07")


@pytest.fixture(scope="session")
def int8(digits, tmp_path_factory):
    return {
        outcome.manifest.format: outcome
        for outcome in export(
            digits_request(digits, tmp_path_factory.mktemp("int8") / "models"), QUIET
        )
    }


@pytest.fixture(scope="session")
def fp32(digits, tmp_path_factory):
    request = digits_request(
        digits,
        tmp_path_factory.mktemp("fp32") / "models",
        formats=("onnx",),
        precision="fp32",
        quantization=None,
    )
    return export(request, QUIET)[0]


def test_it_is_judged_on_images_that_were_held_out(int8):
    for outcome in int8.values():
        parity, facts = outcome.manifest.parity, outcome.manifest.quantization
        # Every second one of 898 images, and at most 500.
        assert facts["calibration_images"] + facts["held_out_images"] == 449
        assert parity["samples"] == facts["held_out_images"] == 89
        assert parity["top1"] >= parity["least_top1"] == 0.95
        assert parity["accuracy"] >= parity["least_accuracy"] > 0.9
        assert set(facts["methods"]) == set(METHODS)
        assert facts["methods"][facts["method"]] == min(facts["methods"].values())


def test_the_graph_keeps_tensorrts_rules(int8):
    check_onnx(int8["onnx"].artifact, INT8, RELEASE)
    graph = onnx.load(int8["onnx"].artifact).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = [
        kinds[node.input[0]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in kinds
    ]
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(weights) == len(int8["onnx"].manifest.quantization["layers"])
    # The layers of the Squeeze-and-Excitation gates stay in floating point.
    assert len(layers) - len(weights) == 2 * sum(trained.ARCHITECTURE.depths)
    assert set(weights) == {onnx.TensorProto.INT8}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("unsigned", "zero points of uint8"),
        ("shifted", "zero points of int8 up to 3"),
        ("scale", "scale that is not over 0"),
        ("axis", "scales on axis 1"),
        ("squeeze", "belongs in floating point"),
        ("identity", "wants its identity in INT8"),
        ("bias", "is no FP32 constant"),
        ("weights", "not both"),
        ("nothing", "nothing in it is quantised"),
    ],
)
def test_a_graph_that_breaks_a_rule_is_refused(int8, fp32, tmp_path, fault, message):
    model = onnx.load(fp32.artifact if fault == "nothing" else int8["onnx"].artifact)
    _break(model.graph, fault)
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(BuildError, match=message):
        check_onnx(tmp_path / "broken.onnx", INT8, RELEASE)


def _break(graph: onnx.GraphProto, fault: str) -> None:
    if fault == "nothing":
        return
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    quantize = next(node for node in graph.node if node.op_type == "QuantizeLinear")
    dequantize = next(
        node
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    )
    convolution = next(node for node in graph.node if node.op_type == "Conv")
    replacements: dict[str, tuple[str, np.ndarray]] = {
        "unsigned": (quantize.input[2], np.array(0, np.uint8)),
        "shifted": (quantize.input[2], np.array(3, np.int8)),
        "scale": (quantize.input[1], np.array(0, np.float32)),
    }
    if fault in replacements:
        name, value = replacements[fault]
        constants[name].CopyFrom(numpy_helper.from_array(value, name))
    elif fault == "axis":
        next(attribute for attribute in dequantize.attribute if attribute.name == "axis").i = 1
    elif fault == "squeeze":
        next(node for node in graph.node if node.op_type == "ReduceMean").input[0] = producers[
            convolution.input[0]
        ].output[0]
    elif fault == "identity":
        add = next(node for node in graph.node if node.op_type == "Add")
        pair = next(
            producers[name] for name in add.input if producers[name].op_type == "DequantizeLinear"
        )
        index = list(add.input).index(pair.output[0])
        add.input[index] = producers[pair.input[0]].input[0]
    elif fault == "bias":
        convolution.input[2] = quantize.input[0]
    elif fault == "weights":
        convolution.input[0] = graph.input[0].name


def test_openvino_runs_it_in_integers_throughout_where_they_do_not_saturate(int8):
    """OpenVINO's own execution graph shows it.

    On other processors OpenVINO computes in floating point throughout, and the manifest says so.
    """
    runtime = runtimes.load("openvino", int8["openvino"].artifact, {"HINT_BF16": "YES"})
    assert isinstance(runtime, OpenVino)
    kernels = runtime.kernels("Convolution")
    facts = int8["openvino"].manifest.quantization
    assert kernels == facts["kernels"]
    ran_in = int8["openvino"].manifest.parity["ran_in"]
    if adds_exactly():
        assert kernels["int8"] == len(facts["layers"]) - 1  # the last layer is no convolution
        assert runtime.kernels("FullyConnected") == {"int8": 1}
        assert ran_in == "int8"
    else:
        assert "int8" not in kernels | runtime.kernels("FullyConnected")
        assert ran_in != "int8"


def test_layers_that_are_kept_stay_as_they_are(digits, tmp_path):
    kept = ("conv1", "layers.2.0.conv2")
    request = digits_request(
        digits,
        tmp_path / "models",
        formats=("onnx",),
        quantization=Quantization(digits.seen, "minmax", kept),
    )
    (outcome,) = export(request, QUIET)
    graph = onnx.load(outcome.artifact).graph
    assert outcome.manifest.quantization
    assert {f"network.{name}.weight" for name in kept} <= {
        tensor.name for tensor in graph.initializer if tensor.data_type == 1
    }
    assert not set(kept) & outcome.manifest.quantization["layers"].keys()
    check_onnx(outcome.artifact, INT8, RELEASE)


def spoiled(monkeypatch: pytest.MonkeyPatch, layer: str) -> None:
    """Have one layer's input clipped to almost nothing."""
    build: Callable[..., None] = qdq.write

    def write(graph: qdq.Graph, thresholds: dict[str, float], keep: object, path: Path) -> None:
        build(graph, {**thresholds, graph.layers[layer].input[0]: 1e-4}, keep, path)

    monkeypatch.setattr(qdq, "write", write)


def test_what_is_not_good_enough_is_not_published(digits, tmp_path, monkeypatch):
    spoiled(monkeypatch, "layers.2.1.conv2")
    request = digits_request(
        digits,
        tmp_path / "models",
        quantization=Quantization(digits.seen, "minmax", truth=digits.seen),
    )
    with pytest.raises(
        ParityError, match=r"top-1 agrees for .* leave the worst layers out with `keep_fp32=auto`"
    ):
        export(request, QUIET)
    assert not list((tmp_path / "models").glob("digits*"))


def test_the_worst_layers_are_left_out_until_it_is(digits, tmp_path, monkeypatch):
    spoiled(monkeypatch, "layers.2.1.conv2")
    request = digits_request(
        digits,
        tmp_path / "models",
        formats=("openvino",),
        quantization=Quantization(digits.seen, "minmax", ("auto",)),
    )
    (outcome,) = export(request, QUIET)
    facts = outcome.manifest.quantization
    assert facts
    assert next(iter(facts["layers"])) == "layers.2.1.conv2"
    assert facts["keep_fp32"] == ["layers.2.1.conv2"]
    assert outcome.manifest.parity["top1"] >= 0.95


class Worse(Runtime):
    """The network itself, with mistakes on the images whose answers are the least certain.

    For these images the second class gets a higher score than the first.
    """

    input = TensorSpec("INPUT__0", ())

    def __init__(self, network: ServedNetwork, inputs: np.ndarray, count: int) -> None:
        self._network = network
        scores = np.sort(self.run_network(inputs), axis=1)
        self._confused = {
            inputs[index].tobytes() for index in np.argsort(scores[:, -1] - scores[:, -2])[:count]
        }

    def run_network(self, batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self._network(torch.from_numpy(batch)).numpy()

    def run(self, batch: np.ndarray) -> np.ndarray:
        answers = self.run_network(batch)
        for image, scores in zip(batch, answers, strict=True):
            if image.tobytes() in self._confused:
                second, first = np.argsort(scores)[-2:]
                middle = scores[[first, second]].mean()
                scores[[first, second]] = middle - 1e-3, middle + 1e-3
        return answers


def test_lost_accuracy_is_refused_even_where_classes_need_not_agree(digits):
    """The artifact is the network with known mistakes.

    A spoiled graph would not do: what an INT8 kernel makes of it differs between processors.
    """
    network = ServedNetwork(
        FileSource(digits.checkpoint).load(trained.ARCHITECTURE, QUIET)[0], OutputKind.LOGITS
    )
    paths = sorted(digits.seen.rglob("*.png"))[::15]
    images = np.stack([trained.CONTRACT(load_image(path)) for path in paths])
    truth = np.array([int(path.parent.name) for path in paths])
    assert (Worse(network, images, 0).run(images).argmax(axis=1) == truth).mean() > 0.95
    samples = Samples([path.name for path in paths], images, truth, least_top1=0.0, most_lost=0.02)
    gate = Gate(network, trained.CONTRACT, 2, samples)
    assert gate.check("it", Worse(network, images, 1), INT8).failures == []
    parity = gate.measure(Worse(network, images, 4), INT8)
    assert len(parity.failures) == 1
    with pytest.raises(ParityError, match=r"\d% are classified as they should be, of \d"):
        gate.check("it", Worse(network, images, 4), INT8)


def test_the_noise_of_a_layer_is_what_quantising_it_adds(fp32, int8, digits):
    graph = qdq.Graph(onnx.load(fp32.artifact))
    images = [trained.CONTRACT(load_image(path)) for path in sorted(digits.seen.rglob("*.png"))[:3]]
    noise = sensitivity.noise(graph, onnx.load(int8["onnx"].artifact), images)
    assert noise.keys() == graph.layers.keys()
    assert list(noise.values()) == sorted(noise.values(), reverse=True)
    assert all(0 < value < 0.2 for value in noise.values())


def test_statistics_are_kept_and_belong_to_their_images(digits, int8, tmp_path, capsys):
    common = [
        "--weights",
        str(digits.checkpoint),
        "--architecture",
        "se-resnext-tiny",
        "--precision",
        "int8",
        "--crop",
        "32",
    ]
    common += [
        "--resize",
        "36",
        "--labels",
        "none",
        "--formats",
        "openvino",
        "--calibration-method",
        "minmax",
        "--repository",
    ]
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted(digits.seen.rglob("*.png"))[::20]:
        shutil.copy(path, images)

    def calibrate(name: str) -> str:
        code = main(
            [*common, str(tmp_path / name), "--calibration", str(images), "--min-agreement", "0.5"]
        )
        said = capsys.readouterr().err
        assert code == 0, said
        return said

    first = calibrate("first")
    assert "calibrating on 36 images" in first and "45 images are few to calibrate with" in first
    assert "as measured before" in calibrate("second")
    (images / "another.png").write_bytes(next(digits.unseen.rglob("*.png")).read_bytes())
    assert "as measured before" not in calibrate("third")


def test_an_equal_quantisation_is_not_made_again(digits, int8):
    repository = int8["onnx"].folder.parent.parent
    assert [outcome.made for outcome in export(digits_request(digits, repository), QUIET)] == [
        False,
        False,
    ]


def test_classes_that_changed_are_judged_by_again(digits, tmp_path):
    """Nothing but the content of the file is different."""
    table = tmp_path / "classes.csv"
    images = sorted(digits.seen.rglob("*.png"))
    table.write_text("".join(f"{path},{path.parent.name}\n" for path in images))
    quantization = Quantization(digits.seen, "minmax", truth=table)
    request = digits_request(
        digits, tmp_path / "models", formats=("openvino",), quantization=quantization
    )
    (first,), (second,) = export(request, QUIET), export(request, QUIET)
    assert (first.made, second.made) == (True, False)
    table.write_text("".join(f"{path},{(int(path.parent.name) + 1) % 10}\n" for path in images))
    (third,) = export(request, QUIET)
    assert (
        third.made and third.manifest.parity["accuracy"] < 0.1 < first.manifest.parity["accuracy"]
    )


def test_what_a_person_reads(digits, tmp_path, capsys):
    arguments = [
        "--weights",
        str(digits.checkpoint),
        "--architecture",
        "se-resnext-tiny",
        "--crop",
        "32",
        "--resize",
        "36",
    ]
    arguments += [
        "--mean",
        "0.5,0.5,0.5",
        "--std",
        "0.5,0.5,0.5",
        "--labels",
        "none",
        "--formats",
        "openvino",
        "--precision",
        "int8",
    ]
    arguments += [
        "--calibration",
        str(digits.seen),
        "--truth",
        str(digits.seen),
        "--repository",
        str(tmp_path / "models"),
        "--json",
    ]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    (facts,) = json.loads(out)
    assert facts["model"] == "seresnext101_openvino_int8"
    for line in (
        "89 images held out of calibration",
        "accuracy",
        "of the network",
        "calibrated on 360 images by",
        "layers in INT8",
        "in int8" if adds_exactly() else "has no VNNI",
    ):
        assert line in err


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "is no folder of images to calibrate with"),
        (
            lambda folder: [path.unlink() for path in sorted(folder.iterdir())[5:]],
            "holds 5 images, and at least 10 are needed",
        ),
        (
            lambda folder: sorted(folder.iterdir())[3].write_bytes(b"\x89PNG\r\n\x1a\n"),
            "cannot be read",
        ),
    ],
)
def test_images_that_are_no_use(digits, tmp_path, spoil, message):
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted(digits.seen.rglob("*.png"))[:12]:
        shutil.copy(path, images)
    spoil(images)
    with pytest.raises(CalibrationError, match=message):
        export(
            digits_request(digits, tmp_path / "models", quantization=Quantization(images)), QUIET
        )
    assert not list((tmp_path / "models").glob("digits*"))


def test_options_that_do_not_go_together(digits, tmp_path):
    def ask(**changes: object) -> None:
        digits_request(digits, tmp_path / "models", **changes)

    with pytest.raises(OptionError, match="go together"):
        ask(quantization=None)
    with pytest.raises(OptionError, match="go together"):
        ask(precision="fp32")
    with pytest.raises(OptionError, match="torchscript is not exported in int8"):
        ask(formats=("torchscript",))
    with pytest.raises(OptionError, match="unknown calibration method"):
        Quantization(digits.seen, "best")
    with pytest.raises(OptionError, match="is a share"):
        Quantization(digits.seen, min_agreement=95)
    with pytest.raises(
        CalibrationError,
        match=r"`keep_fp32` names conv9; layers are called conv1, layers\.0\.0\.conv1",
    ):
        export(
            digits_request(
                digits,
                tmp_path / "models",
                quantization=Quantization(digits.seen, keep_fp32=("conv9",)),
            ),
            QUIET,
        )
    with pytest.raises(CalibrationError, match="tells no class of"):
        export(
            digits_request(
                digits,
                tmp_path / "models",
                quantization=Quantization(digits.seen, truth=digits.unseen),
            ),
            QUIET,
        )


def test_a_histogram_grows_and_forgets_nothing():
    generator = np.random.default_rng(0)
    parts = [
        generator.standard_normal(10_000).astype(np.float32) * scale for scale in (0.1, 3, 0.5, 40)
    ]
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    magnitudes = np.abs(np.concatenate(parts))
    assert histogram.peak == magnitudes.max() <= histogram.limit
    assert (histogram.counts == np.histogram(magnitudes, 4096, (0, histogram.limit))[0]).all()


def test_methods_and_an_outlier():
    """One value of a thousand times the spread: min-max keeps it, the others clip it."""
    generator = np.random.default_rng(0)
    histogram = Histogram()
    histogram.add(np.append(generator.standard_normal(200_000), 100).astype(np.float32))
    assert threshold(histogram, "minmax") == 100
    # The percentile of the normal distribution.
    assert threshold(histogram, "percentile") == pytest.approx(3.89, abs=0.1)
    assert 2 < threshold(histogram, "entropy") < 10
    silent = Histogram()
    silent.add(np.zeros(10, np.float32))
    assert [threshold(silent, method) for method in METHODS] == [1.0] * 3


def test_statistics_survive_a_file_and_a_damaged_one_is_measured_anew(tmp_path):
    histogram = Histogram()
    histogram.add(np.arange(10, dtype=np.float32))
    path = tmp_path / "folder" / "statistics.npz"
    Statistics({"x": histogram}, np.ones((1, 3), np.float32)).save(path)
    found = Statistics.load(path, ["x"])
    assert (
        found
        and (found.histograms["x"].counts == histogram.counts).all()
        and found.histograms["x"].peak == 9
    )
    assert Statistics.load(path, ["x", "y"]) is None
    path.write_bytes(path.read_bytes()[:100])
    assert Statistics.load(path, ["x"]) is None
