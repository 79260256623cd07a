"""The parts of a calibration, each without the others: images, statistics, thresholds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from seresnext101_triton.client.contract import PIXELS, Preprocessing
from seresnext101_triton.export.errors import CalibrationError, OptionError
from seresnext101_triton.export.quantization import Quantization, images, recipe, sensitivity
from seresnext101_triton.export.quantization.images import Images
from seresnext101_triton.export.quantization.qdq import Graph
from seresnext101_triton.export.quantization.statistics import Histogram, Statistics, collect
from seresnext101_triton.export.quantization.thresholds import threshold

CONTRACT = Preprocessing(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images of one grey each: the image of number n is of grey 20 n."""
    made = tmp_path / "images"
    for number in range(12):
        path = made / str(number % 3) / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (20 * number,) * 3).save(path)
    return made


def numbers(paths: list[Path]) -> list[int]:
    return [int(path.stem) for path in paths]


# The images


def test_every_fifth_image_is_held_out(folder):
    found = Images(Quantization(folder), CONTRACT)
    # Sorted by folder: 0 3 6 9, 1 4 7 10, 2 5 8 11.
    assert numbers(found.held_out) == [1, 5]
    assert numbers(found.calibration) == [0, 3, 6, 9, 4, 7, 10, 2, 8, 11]


@pytest.mark.parametrize(("most", "taken"), [(12, 12), (11, 6), (6, 6), (5, 4)])
def test_of_more_images_so_many_are_taken_from_all_over_the_folder(
    folder, monkeypatch, most, taken
):
    monkeypatch.setattr(images, "MOST", most)
    found = Images(Quantization(folder), CONTRACT)
    paths = sorted([*found.calibration, *found.held_out])
    assert numbers(paths) == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11][:: 12 // taken]


def test_how_many_images_are_needed(folder):
    for path in sorted(folder.rglob("*.png"))[10:]:
        path.unlink()
    assert len(Images(Quantization(folder), CONTRACT).calibration) == 8
    next(folder.rglob("*.png")).unlink()
    with pytest.raises(CalibrationError, match="holds 9 images, and at least 10 are needed"):
        Images(Quantization(folder), CONTRACT)


def test_images_come_prepared_as_the_network_takes_them(folder):
    found = Images(Quantization(folder), CONTRACT)
    first, second = found.prepared(found.held_out)
    assert first.shape == (3, 8, 8) and first.dtype == np.float32
    assert first == pytest.approx((20 / 255 - 0.5) / 0.5)
    assert second == pytest.approx((100 / 255 - 0.5) / 0.5)


@pytest.mark.parametrize("layout", ["NCHW", PIXELS])
def test_the_gate_gets_what_was_held_out(folder, layout):
    contract = Preprocessing(resize=8, crop=8, mean=CONTRACT.mean, std=CONTRACT.std, layout=layout)
    options = Quantization(folder, truth=folder, min_agreement=0.7, max_loss=0.2)
    samples = Images(options, contract).samples(3)
    assert samples.names == ["01.png", "05.png"]
    assert samples.truth is not None and samples.truth.tolist() == [1, 2]
    assert (samples.least_top1, samples.most_lost) == (0.7, 0.2)
    assert samples.inputs.shape == (2, 3, 8, 8)
    assert samples.inputs[1] == pytest.approx((100 / 255 - 0.5) / 0.5)
    if layout == PIXELS:
        assert samples.pixels is not None and samples.pixels.shape == (2, 8, 8, 3)
        assert samples.pixels.dtype == np.uint8 and (samples.pixels[0] == 20).all()
    else:
        assert samples.pixels is None
    assert Images(Quantization(folder), contract).samples(3).truth is None


def test_images_without_a_class_are_counted(folder, tmp_path):
    table = tmp_path / "classes.csv"
    table.write_text(f"{folder}/1/04.png,0\n")
    found = Images(Quantization(folder, truth=table), CONTRACT)
    with pytest.raises(CalibrationError, match=r"no class of .*01\.png, nor of 1 others"):
        found.samples(3)
    table.write_text(f"{folder}/1/04.png,7\n")
    with pytest.raises(CalibrationError, match="class 7"):
        found.samples(3)


def test_a_digest_is_that_of_all_images_and_of_their_preparation(folder):
    def digest(contract: Preprocessing = CONTRACT) -> str:
        return Images(Quantization(folder), contract).digest()

    first = digest()
    assert digest() == first
    assert digest(Preprocessing(resize=9, crop=8)) != first
    for path in (folder / "0" / "00.png", folder / "2" / "05.png"):  # calibrates, is held out
        before = path.read_bytes()
        Image.new("RGB", (8, 8)).save(path, compress_level=0)
        assert digest() != first
        path.write_bytes(before)
    unreadable = Images(Quantization(folder), CONTRACT)
    unreadable.held_out[0].unlink()
    with pytest.raises(CalibrationError, match=r"cannot be read: .*01\.png: No such file"):
        unreadable.digest()


def test_a_digest_is_that_of_the_classes(folder, tmp_path):
    def digest(truth: Path | None) -> str:
        return Images(Quantization(folder, truth=truth), CONTRACT).classes_digest()

    assert digest(None) == digest(tmp_path / "none") == ""
    table = tmp_path / "classes.csv"
    table.write_text("a")
    assert digest(table) == hashlib.sha256(b"a").hexdigest()
    names = digest(folder)
    (folder / "0" / "00.png").rename(folder / "1" / "00.png")
    assert names and digest(folder) != names


def test_two_quantisations_are_told_apart(folder):
    def identity(**options: object) -> dict[str, object]:
        asked = Quantization(folder, **options)  # type: ignore[arg-type]
        return recipe.identity(asked, Images(asked, CONTRACT))

    first = identity()
    assert identity() == first
    for options in (
        {"method": "minmax"},
        {"keep_fp32": ("conv1",)},
        {"truth": folder},
        {"min_agreement": 0.9},
        {"max_loss": 0.5},
    ):
        assert identity(**options) != first


@pytest.mark.parametrize("name", ["min_agreement", "max_loss"])
def test_shares_are_from_0_to_1(tmp_path, name):
    def with_share(value: float) -> Quantization:
        return Quantization(tmp_path, **{name: value})  # type: ignore[arg-type]

    for value in (0, 1):
        assert getattr(with_share(value), name) == value
    for wrong in (-0.01, 1.01, float("nan")):
        with pytest.raises(OptionError, match=f"`{name}` is a share"):
            with_share(wrong)


@pytest.mark.parametrize(("count", "taken"), [(3, 3), (4, 4), (7, 7), (8, 4), (11, 6), (400, 4)])
def test_a_few_of_many_are_from_all_over_them(count, taken):
    assert len(range(count)[recipe._spread(count, 4)]) == taken
    assert range(count)[recipe._spread(count, 4)][0] == 0


def test_ever_more_of_the_worst_layers():
    assert [*recipe._worst_layers(["a", "b", "c", "d", "e"])] == [
        *((), ("a",), ("a", "b"), ("a", "b", "c", "d"))
    ]
    assert [*recipe._worst_layers(["a", "b"])] == [(), ("a",)]
    assert [*recipe._worst_layers(["a"])] == [()]


# The statistics


def test_the_end_of_a_histogram_is_a_power_of_two():
    histogram = Histogram()
    for value, limit in ((0.0, 0.0), (3.0, 4.0), (-4.0, 4.0), (4.5, 8.0), (100.0, 128.0)):
        histogram.add(np.array([[value]], np.float32))
        assert (histogram.limit, histogram.peak) == (limit, abs(value))
    assert histogram.counts.sum() == 5 and histogram.counts.shape == (4096,)
    # Bins of 1/32. The 4 was the end of its histogram then, and so in the last bin.
    assert np.flatnonzero(histogram.counts).tolist() == [0, 96, 127, 144, 3200]


def toy() -> onnx.ModelProto:
    """Two convolutions of one value each: OUTPUT__0 = -3 (2 INPUT__0), and its mean."""
    nodes = [
        helper.make_node("Conv", ["INPUT__0", "network.first.weight"], ["middle"], "one"),
        helper.make_node("Conv", ["middle", "network.second.weight"], ["last"], "two"),
        helper.make_node("Flatten", ["last"], ["OUTPUT__0"]),
    ]
    constants = [
        numpy_helper.from_array(np.full((1, 1, 1, 1), value, np.float32), f"network.{name}.weight")
        for name, value in (("first", 2), ("second", -3))
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("INPUT__0", TensorProto.FLOAT, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("OUTPUT__0", TensorProto.FLOAT, ["batch", 4])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_the_values_of_tensors_are_counted():
    model = toy()
    graph = Graph(model)
    assert list(graph.layers) == ["first", "second"]
    assert graph.tensors == ["INPUT__0", "middle"]
    pictures = [np.full((1, 2, 2), value, np.float32) for value in (1, 5)]
    steps: list[None] = []
    before = model.SerializeToString()
    found = collect(model, graph.tensors, pictures, lambda: steps.append(None))
    assert model.SerializeToString() == before
    assert len(steps) == 2
    assert found.histograms.keys() == {"INPUT__0", "middle"}
    assert [each.peak for each in found.histograms.values()] == [5, 10]
    assert [each.counts.sum() for each in found.histograms.values()] == [8, 8]
    assert found.answers.tolist() == [[-6.0] * 4, [-30.0] * 4]


def test_statistics_come_back_from_their_file(tmp_path):
    histograms = {"a": Histogram(), "b": Histogram()}
    histograms["a"].add(np.array([3], np.float32))
    histograms["b"].add(np.array([100, 1], np.float32))
    answers = np.array([[1, 2]], np.float32)
    path = tmp_path / "statistics.npz"
    Statistics(histograms, answers).save(path)
    assert list(tmp_path.iterdir()) == [path]
    found = Statistics.load(path, ["b"])
    assert found is not None and found.answers.tolist() == [[1, 2]]
    for name, histogram in histograms.items():
        assert vars(found.histograms[name]).keys() == vars(histogram).keys()
        assert found.histograms[name].limit == histogram.limit
        assert found.histograms[name].peak == histogram.peak
        assert (found.histograms[name].counts == histogram.counts).all()
    assert Statistics.load(tmp_path / "none", []) is None


# The thresholds


def histogram_of(counts: dict[int, int], limit: float = 4096.0, peak: float = 4000.0) -> Histogram:
    """4096 bins of width `limit` / 4096, with these counts by bin."""
    found = np.zeros(4096, np.int64)
    for place, count in counts.items():
        found[place] = count
    return Histogram(found, limit, peak)


def test_the_percentile_is_the_end_of_the_bin_with_the_value_at_its_rank():
    tail = {10: 99_985, 20: 10, 4000: 5}  # 99.985 % up to bin 10, 99.995 % up to bin 20
    assert threshold(histogram_of(tail), "percentile") == 21
    assert threshold(histogram_of(tail, limit=2048), "percentile") == 10.5
    assert threshold(histogram_of({10: 99_995, 20: 5}), "percentile") == 11
    assert threshold(histogram_of({10: 9}, peak=10.25), "percentile") == 10.25
    assert threshold(histogram_of({10: 9}, peak=10.25), "minmax") == 10.25


def divergence(counts: list[float], bound: int) -> float:
    """Kullback and Leibler's divergence of 128 levels from the distribution clipped at a bound."""
    clipped = counts[:bound]
    reference = [*clipped[:-1], clipped[-1] + sum(counts[bound:])]
    levels = [0.0] * bound
    for level in range(128):
        places = range(level * bound // 128, (level + 1) * bound // 128)
        used = [place for place in places if clipped[place]]
        for place in used:
            levels[place] = sum(clipped[each] for each in used) / len(used)
    total, whole = sum(reference), sum(levels)
    return sum(
        share / total * np.log((share / total) / max(level / whole, 1e-10))
        for share, level in zip(reference, levels, strict=True)
        if share
    )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("tail", ["normal", "heavy", "ReLU"])
def test_entropy_is_the_bound_whose_levels_diverge_least(seed, tail):
    """Against a calculation in plain Python."""
    generator = np.random.default_rng(seed)
    values = np.abs(
        generator.standard_t(3, 2000) if tail == "heavy" else generator.standard_normal(2000)
    )
    counts = np.histogram(values, 320, (0, 12 if tail == "heavy" else 4))[0]
    if tail == "ReLU":
        counts[0] = 5000
    histogram = histogram_of(dict(enumerate(map(int, counts))), peak=1e9)
    used = int(np.flatnonzero(counts)[-1]) + 1
    counted = [float(counts[1]), *map(float, counts[1:used])]
    bounds = [*range(128, used, 16), used]
    best = min(bounds, key=lambda bound: divergence(counted, bound))
    assert threshold(histogram, "entropy") == best
    histogram.peak = best - 0.5
    assert threshold(histogram, "entropy") == best - 0.5


def test_entropy_of_what_has_few_bins_or_many():
    few = dict.fromkeys(range(128), 3)
    assert threshold(histogram_of(few), "entropy") == 128
    assert threshold(histogram_of({127: 1}, limit=8192), "entropy") == 256
    # Even bins only: bins are joined in pairs, and the search is over the half of them.
    spread = {place: 1000 // (place + 1) + 1 for place in range(0, 3000, 2)}
    joined = {place // 2: count for place, count in spread.items()}
    assert threshold(histogram_of(spread), "entropy") == threshold(
        histogram_of(joined, limit=8192), "entropy"
    )


# The noise


def test_the_noise_of_each_layer_by_hand():
    """The first layer's input is rounded to halves, and the second's weight from -3 to -2.5."""
    model = toy()
    graph = Graph(model)
    quantized = toy()
    add = quantized.graph.node.append
    constant = quantized.graph.initializer.append

    def store(name: str, value: object, kind: type) -> None:
        constant(numpy_helper.from_array(np.array(value, kind), name))

    for name, scale in (("x", 0.5), ("y", 0.01), ("w", [2.0 / 127]), ("v", [2.5 / 127])):
        store(f"{name}_scale", scale, np.float32)
        store(f"{name}_zero", np.zeros_like(scale, np.int8), np.int8)
    store("w_int8", [[[[127]]]], np.int8)
    store("v_int8", [[[[-127]]]], np.int8)
    for source, name in (("INPUT__0", "x"), ("middle", "y")):
        pair = [f"{name}_scale", f"{name}_zero"]
        add(helper.make_node("QuantizeLinear", [source, *pair], [f"{name}_q"]))
        add(helper.make_node("DequantizeLinear", [f"{name}_q", *pair], [f"{name}_dq"]))
    for name in ("w", "v"):
        inputs = [f"{name}_int8", f"{name}_scale", f"{name}_zero"]
        add(helper.make_node("DequantizeLinear", inputs, [f"{name}_dq"], axis=0))
    one, two = quantized.graph.node[:2]
    one.input[:], two.input[:] = ["x_dq", "w_dq"], ["y_dq", "v_dq"]
    pictures = [np.full((1, 2, 2), value, np.float32) for value in (0.25, 0.2)]
    noise = sensitivity.noise(graph, quantized, pictures)
    # 0.25 becomes 0 (ties go to even), and 0.2 becomes 0; the second layer has 2.5 for 3.
    assert list(noise) == ["first", "second"]
    assert noise["first"] == pytest.approx(1)
    assert noise["second"] == pytest.approx(0.5 / 3, rel=1e-4)
    two.input[1] = "network.second.weight"
    assert list(sensitivity.noise(graph, quantized, pictures)) == ["first"]
