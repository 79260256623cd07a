"""FP16: cast from a folded FP32 network, within what FP16 can hold, and FP32 at both ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seresnext101_triton.client.contract import OutputKind
from seresnext101_triton.export.errors import RangeError
from seresnext101_triton.export.gate import Gate
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.precision import FP16
from seresnext101_triton.export.ranges import FP16_MAX, measure
from seresnext101_triton.export.served import ServedNetwork
from seresnext101_triton.export.weights.seeded import seeded_network
from tests.conftest import PREPROCESSING, QUIET, TINY, tiny_request

pytestmark = pytest.mark.numeric


@pytest.fixture
def folded() -> ServedNetwork:
    return ServedNetwork(seeded_network(TINY, 0), OutputKind.PROBABILITIES).folded()


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    return Gate(ServedNetwork(seeded_network(TINY, 0), OutputKind.LOGITS), PREPROCESSING, 1).inputs


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    repository = tmp_path_factory.mktemp("half") / "models"
    return export(
        tiny_request(repository, formats=("torchscript", "onnx"), precision="fp16"), QUIET
    )


def test_fp16_artifacts_are_proven_within_their_bound(outcomes):
    assert [outcome.model for outcome in outcomes] == ["tiny_torchscript_fp16", "tiny_onnx_fp16"]
    for outcome in outcomes:
        parity = outcome.manifest.parity
        # The error is larger than in FP32, so the artifacts do compute in FP16.
        assert 1e-5 < parity["relative_error"] < parity["bound"] == 1e-2
        assert (parity["top1"], parity["top5"], parity["device"]) == (1, 1, "cpu")


def test_the_manifest_has_the_ranges(outcomes):
    for outcome in outcomes:
        ranges = outcome.manifest.ranges
        assert ranges["limit"] == FP16_MAX
        assert ranges["headroom"] == FP16_MAX / ranges["largest"]["value"] > 10
        assert {
            "layers.0.0.conv1",
            "layers.0.0.squeeze.pool",
            "layers.0.0.squeeze.pool (sum)",
            "maxpool",
            "avgpool",
        } <= set(ranges["tensors"])


def test_ranges_are_those_of_the_network(folded, inputs):
    """The first convolution and the first sum of a squeeze, computed by hand."""
    ranges = measure(folded, inputs, FP16)["tensors"]
    with torch.inference_mode():
        first = folded.network.conv1(torch.from_numpy(inputs))
    assert ranges["conv1"] == pytest.approx(float(first.abs().max()), rel=1e-5)
    sums = []
    pool = folded.network.get_submodule("layers.0.0.squeeze.pool")
    with torch.inference_mode():
        handle = pool.register_forward_pre_hook(
            lambda _, arguments: sums.append(float(arguments[0].abs().sum(dim=(2, 3)).max()))
        )
        folded(torch.from_numpy(inputs))
        handle.remove()
    assert ranges["layers.0.0.squeeze.pool (sum)"] == pytest.approx(max(sums), rel=1e-5)


def test_an_activation_that_would_overflow(folded, inputs):
    folded.network.get_parameter("layers.2.1.conv2.weight").mul_(1e5)
    with pytest.raises(
        RangeError,
        match=r"reaches \d[^ ]+, and FP16 holds 65504 at most: "
        r"export this network with `precision=fp32`",
    ):
        measure(folded, inputs, FP16.with_fp32_squeeze())


def test_a_weight_that_would_overflow(folded, inputs):
    folded.network.get_parameter("layers.0.0.squeeze.expand.bias")[0] = -1e5
    with pytest.raises(RangeError, match=r"layers.0.0.squeeze.expand.* reaches 1e\+05"):
        measure(folded, inputs, FP16)


def test_a_squeeze_that_would_overflow_is_kept_in_fp32(tmp_path, inputs, monkeypatch):
    """Its input fits into FP16, and the sum of 3136 inputs does not: a kernel may add in FP16."""
    weights = seeded_network(TINY, 0).state_dict()
    weights["layers.0.0.bn3.bias"] += 1000
    for name in ("layers.0.0.squeeze.squeeze", "layers.1.0.conv1", "layers.1.0.downsample.0"):
        weights[f"{name}.weight"] /= 1000
    path = tmp_path / "wide.pth"
    torch.save(weights, path)
    request = {"weights": str(path), "precision": "fp16"}
    with pytest.raises(
        RangeError,
        match=r"layers.0.0.squeeze.pool \(sum\) reaches .* "
        r"keep the squeezes in FP32 with `fp32_squeeze`",
    ):
        export(tiny_request(tmp_path / "models", **request), QUIET)
    (outcome,) = export(tiny_request(tmp_path / "models", **request, fp32_squeeze=True), QUIET)
    assert outcome.manifest.parity["top1"] == 1


def test_casting_leaves_the_fp32_network_alone(folded):
    half = folded.in_half(fp32_squeeze=True)
    assert {tensor.dtype for tensor in folded.parameters()} == {torch.float32}
    types = {name.split(".")[-2]: tensor.dtype for name, tensor in half.named_parameters()}
    assert types["squeeze"] == types["expand"] == torch.float32
    assert types["conv1"] == types["conv2"] == types["fc"] == torch.float16
    assert {tensor.dtype for tensor in folded.in_half().parameters()} == {torch.float16}


def test_fp16_torchscript_computes_in_half_and_names_no_device(outcomes):
    script = torch.jit.load(outcomes[0].artifact)
    kinds = [node.kind() for node in script.inlined_graph.nodes()]
    assert kinds.count("aten::to") == 2
    assert "Device" not in "".join(
        line.partition("#")[0] for line in str(script.inlined_graph).splitlines()
    )
    scores = script(torch.zeros(1, 3, 64, 64))
    assert scores.dtype == torch.float32
    assert float(scores.sum()) == pytest.approx(1, abs=1e-6)  # a softmax in FP16 would miss by 1e-4


def test_fp32_squeezes_are_another_artifact(tmp_path):
    first, second = (
        export(tiny_request(tmp_path / "models", precision="fp16", fp32_squeeze=island), QUIET)[0]
        for island in (False, True)
    )
    assert (first.version, second.version, second.made) == (1, 2, True)
