"""The gate refuses wrong graphs of a right network and accepts right artifacts of hard networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from seresnext101_triton.client.contract import OutputKind, Preprocessing
from seresnext101_triton.export.cli import main
from seresnext101_triton.export.errors import OptionError, ParityError
from seresnext101_triton.export.formats import FORMATS
from seresnext101_triton.export.formats.onnx import Onnx
from seresnext101_triton.export.gate import Gate
from seresnext101_triton.export.material import Material
from seresnext101_triton.export.network import Bottleneck, SEResNeXt, SqueezeAndExcitation
from seresnext101_triton.export.onnx import writer
from seresnext101_triton.export.parity import ILL_CONDITIONED
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.precision import FP32
from seresnext101_triton.export.served import ServedNetwork
from seresnext101_triton.export.weights.seeded import seeded_network
from seresnext101_triton.export.yardstick import MULTIPLE, Yardstick, relative_error
from seresnext101_triton.server import runtimes
from seresnext101_triton.server.releases import release
from seresnext101_triton.server.runtimes import Runtime, TensorSpec
from tests.conftest import PREPROCESSING, QUIET, TINY, tiny_request

pytestmark = pytest.mark.numeric


class Eager(Runtime):
    """A network as a runtime."""

    input = TensorSpec("INPUT__0", ())

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    def run(self, batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self._network(torch.from_numpy(batch)).numpy()


@pytest.fixture(scope="module", params=list(OutputKind))
def served(request) -> ServedNetwork:
    return ServedNetwork(seeded_network(TINY, 0), request.param)


@pytest.fixture(scope="module")
def gate(served) -> Gate:
    return Gate(served, PREPROCESSING, 4)


def _epsilon(network: SEResNeXt) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3


def _stride_in_first_convolution(network: SEResNeXt) -> None:
    for block in network.modules():
        if isinstance(block, Bottleneck) and block.conv2.stride == (2, 2):
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)


def _gates_without_bias(network: SEResNeXt) -> None:
    for gate in network.modules():
        if isinstance(gate, SqueezeAndExcitation):
            for layer in (gate.squeeze, gate.expand):
                layer.bias = None


def _relu_before_the_sum(network: SEResNeXt) -> None:
    def forward(block: Bottleneck, x: torch.Tensor) -> torch.Tensor:
        out = torch.relu(block.bn1(block.conv1(x)))
        out = torch.relu(block.bn2(block.conv2(out)))
        out = block.bn3(block.conv3(out))
        identity = x if block.downsample is None else block.downsample(x)
        return torch.relu(out * block.squeeze(out)) + identity

    for block in network.modules():
        if isinstance(block, Bottleneck):
            block.forward = forward.__get__(block)  # type: ignore[method-assign]


def _late_layer(network: SEResNeXt) -> None:
    network.get_parameter("layers.3.0.conv3.weight").mul_(1.01)


def _one_number_of_the_head(network: SEResNeXt) -> None:
    weight = network.fc.weight
    weight.view(-1)[weight.abs().argmax()] *= 1.01


def _exchanged_classes(network: SEResNeXt) -> None:
    for tensor in (network.fc.weight, network.fc.bias):
        tensor[[3, 700]] = tensor[[700, 3]]


def _pool_without_padding(network: SEResNeXt) -> None:
    network.maxpool.padding = 0


def _mean_of_the_squeeze(network: SEResNeXt) -> None:
    for gate in network.modules():
        if isinstance(gate, SqueezeAndExcitation):
            gate.pool = nn.AdaptiveMaxPool2d(1)  # type: ignore[assignment]


def _groups_in_another_order(network: SEResNeXt) -> None:
    weight = network.get_parameter("layers.3.0.conv2.weight")
    weight.copy_(weight.roll(weight.shape[0] // TINY.cardinality, dims=0))


def _statistics_forgotten(network: SEResNeXt) -> None:
    network.get_submodule("layers.3.0.bn3").reset_running_stats()  # type: ignore[operator]


def _shift_forgotten(network: SEResNeXt) -> None:
    nn.init.zeros_(network.get_parameter("layers.0.0.bn2.bias"))


@pytest.mark.parametrize(
    "mutation",
    [
        _epsilon,
        _stride_in_first_convolution,
        _gates_without_bias,
        _relu_before_the_sum,
        _late_layer,
        _one_number_of_the_head,
        _exchanged_classes,
        _pool_without_padding,
        _mean_of_the_squeeze,
        _groups_in_another_order,
        _statistics_forgotten,
        _shift_forgotten,
    ],
    ids=lambda mutation: mutation.__name__.strip("_"),
)
def test_a_wrong_network_is_refused(served, gate, mutation):
    mutant = deepcopy(served)
    with torch.no_grad():
        mutation(mutant.network)
    with pytest.raises(ParityError, match="the artifact is wrong"):
        gate.check("it", Eager(mutant))


def test_a_fixed_batch_axis_is_refused(served, gate, tmp_path):
    path = tmp_path / "fixed.onnx"
    torch.onnx.export(served, (torch.zeros(1, 3, 64, 64),), path, dynamo=True, verbose=False)
    with pytest.raises(ParityError, match="cannot run a batch of 2: .*Got invalid dimensions"):
        gate.check("it", runtimes.load("onnxruntime", path, {}))


def test_a_contract_that_is_not_what_was_proven_is_refused(tmp_path, monkeypatch):
    """Mean and std change places on their way into config.pbtxt."""
    write = Preprocessing.to_parameters
    monkeypatch.setattr(
        Preprocessing,
        "to_parameters",
        lambda self: write(replace(self, mean=self.std, std=self.mean)),
    )
    with pytest.raises(
        ParityError, match=r"config.pbtxt tells clients to prepare images by .*mean=\(0.229"
    ):
        export(tiny_request(tmp_path / "models"), QUIET)
    assert not (tmp_path / "models").exists()


# Networks with right answers, each of which is hard to compute in its own way. On the cancelling
# ones, FP32 itself is over the bound.


def _large_logits() -> SEResNeXt:
    network = seeded_network(TINY, 0)
    network.fc.weight.mul_(50)
    network.fc.bias.mul_(50)
    return network


def _untrained_gates() -> SEResNeXt:
    network = seeded_network(TINY, 0)
    generator = torch.Generator().manual_seed(0)
    for gate in network.modules():
        if isinstance(gate, SqueezeAndExcitation):
            for parameter in gate.parameters():
                nn.init.normal_(parameter, std=3, generator=generator)
    return network


def _plain_initialisation() -> SEResNeXt:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SEResNeXt(TINY).eval()


def _cancelling(weight: float) -> SEResNeXt:
    """The head's large weights cancel each other, so that FP32 loses digits on every processor.

    The last block's channels are there twice, and the head adds and takes away `weight` times each.
    """
    network = seeded_network(TINY, 0)
    half = network.fc.in_features // 2
    for name, tensor in network.get_submodule("layers.3.0").state_dict().items():
        if name.startswith(("conv3", "bn3", "downsample", "squeeze.expand")) and tensor.ndim:
            tensor[half:] = tensor[:half]
    large = weight * torch.randn(
        network.fc.out_features, half, generator=torch.Generator().manual_seed(0)
    )
    network.fc.weight[:, :half] += large
    network.fc.weight[:, half:] -= large
    return network


def _ill() -> SEResNeXt:
    return _cancelling(200)


def _very_ill() -> SEResNeXt:
    return _cancelling(2e4)


NETWORKS: dict[str, Callable[[], SEResNeXt]] = {
    "large logits": _large_logits,
    "ten classes": lambda: seeded_network(replace(TINY, classes=10), 0),
    "one class": lambda: seeded_network(replace(TINY, classes=1), 0),
    "untrained gates": _untrained_gates,
    "plain initialisation": _plain_initialisation,
    "ill-conditioned": _ill,
    "very ill-conditioned": _very_ill,
}


@pytest.mark.parametrize("kind", list(OutputKind))
@pytest.mark.parametrize("name", NETWORKS)
def test_a_right_artifact_is_accepted_however_hard_the_network_is(name, kind, tmp_path):
    with torch.no_grad():
        served = ServedNetwork(NETWORKS[name](), kind)
    gate = Gate(served, PREPROCESSING, 4)
    material = Material(served.folded(), FP32, 64, 4, release("26.07"), tmp_path / "fp32.onnx")
    writer.write(material.network, material.example, material.max_batch, material.graph)
    for format in (FORMATS[each] for each in ("torchscript", "onnx", "openvino")):
        folder = tmp_path / format.name
        folder.mkdir()
        format.export(material, folder, QUIET)
        parity = gate.check(
            format.name,
            runtimes.load(format.runtime, folder / format.filename, {format.thread_parameter: "1"}),
        )
        for found in parity.float64.values():
            assert found.eager is not None and found.allowed == max(
                FP32.bound, MULTIPLE * found.eager
            )


@pytest.mark.parametrize(("make", "least"), [(_ill, 2 * FP32.bound), (_very_ill, ILL_CONDITIONED)])
def test_networks_whose_own_fp32_breaks_the_bound_are_among_them(make, least):
    """The eager FP32 network is over the bound against itself in float64.

    Without this, the test above would prove nothing.
    """
    with torch.no_grad():
        served = ServedNetwork(make(), OutputKind.LOGITS)
    inputs = Gate(served, PREPROCESSING, 1).inputs
    own = Yardstick(served, inputs, (1, 4), lambda output: output.astype(np.float64)).own(
        FP32, range(len(inputs))
    )
    assert max(own.values()) > least


def test_float64_is_the_truth():
    """A sum in which FP32 loses everything: 1e8 + 1 - 1e8."""

    class Cancelling(nn.Module):
        dtype, output = torch.float32, OutputKind.LOGITS

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat(
                [
                    x.sum(dim=(1, 2, 3))[:, None] * 0 + 3,
                    (x + 1e8 - 1e8).mean(dim=(1, 2, 3))[:, None],
                ],
                dim=1,
            )

        def in_float64(self) -> nn.Module:
            return self

    inputs = np.ones((2, 3, 4, 4), np.float32)
    yardstick = Yardstick(Cancelling(), inputs, (1,), lambda output: output)  # type: ignore[arg-type]
    assert yardstick.distances([np.array([[3, 1], [3, 0]], np.float32)], [0, 1]) == {
        0: 0.0,
        1: pytest.approx(1 / 3),
    }


def test_float64_is_not_asked_where_the_bound_holds(served, gate, monkeypatch):
    monkeypatch.setattr(ServedNetwork, "in_float64", lambda self: pytest.fail("float64 costs time"))
    parity = gate.check("it", Eager(served.folded()))
    assert parity.float64 == {} and parity.warnings == []


def test_only_the_inputs_that_break_the_bound_are_judged(served, gate):
    class White(Eager):
        def run(self, batch: np.ndarray) -> np.ndarray:
            answers = super().run(batch).copy()
            white = (batch == gate.inputs[-2]).all(axis=(1, 2, 3))
            answers[white, 5] *= 1.01
            return answers

    parity = gate.measure(White(served))
    assert list(parity.float64) == ["white"]
    (found,) = parity.float64.values()
    assert found.artifact > found.allowed == max(FP32.bound, MULTIPLE * found.eager)
    assert found.eager < FP32.bound
    with pytest.raises(
        ParityError,
        match="on white the network's own rounding is .* from float64, and the artifact .*: "
        "the artifact is wrong",
    ):
        gate.check("it", White(served))


def test_an_ill_conditioned_network_is_said_to_be_one():
    with torch.no_grad():
        served = ServedNetwork(_very_ill(), OutputKind.LOGITS)
    gate = Gate(served, PREPROCESSING, 1)

    class Off(Eager):
        def run(self, batch: np.ndarray) -> np.ndarray:
            answers = super().run(batch)
            return answers + np.abs(answers).max() * np.linspace(
                0, 3, answers.shape[1], dtype=np.float32
            )

    parity = gate.measure(Off(served))
    assert parity.failures and all(
        found.eager and found.eager > FP32.bound for found in parity.float64.values()
    )
    (warning,) = parity.warnings
    assert "this network's own rounding is off by" in warning and "on the input" in warning
    with pytest.raises(
        ParityError,
        match="this network is ill-conditioned on this input, "
        "and the artifact is more than 8 .*`allow_error=",
    ):
        gate.check("it", Off(served))


def test_a_class_that_nobody_sees_is_no_reason_to_refuse():
    with torch.no_grad():
        served = ServedNetwork(_large_logits(), OutputKind.PROBABILITIES)
    gate = Gate(served, PREPROCESSING, 1)

    class Vanished(Eager):
        def run(self, batch: np.ndarray) -> np.ndarray:
            answers = super().run(batch).copy()
            assert (answers < 1e-13).any()
            answers[answers < 1e-13] = 0
            return answers

    assert gate.check("it", Vanished(served)).failures == []


def test_a_network_that_answers_no_numbers_is_named_as_the_cause():
    network = seeded_network(TINY, 0)
    with torch.no_grad():
        network.fc.weight.fill_(3e38)
    with pytest.raises(
        ParityError, match="the network itself does not answer .* with finite numbers in FP32"
    ):
        Gate(ServedNetwork(network, OutputKind.LOGITS), PREPROCESSING, 1)


def test_the_way_out_is_recorded(tmp_path, monkeypatch, capsys):
    """A user overrules a gate that refuses everything; manifest and config.pbtxt record it."""
    monkeypatch.setattr(Onnx, "default_precision", replace(FP32, bound=1e-12))
    monkeypatch.setattr("seresnext101_triton.export.gate.MULTIPLE", 0.0)
    arguments = [
        "--weights",
        "seeded",
        "--architecture",
        "se-resnext-tiny",
        "--name",
        "tiny",
        "--crop",
        "64",
        "--formats",
        "onnx",
    ]
    arguments += ["--repository", str(tmp_path / "models"), "--json"]
    assert main(arguments) == 65
    assert "relative error" in capsys.readouterr().err
    assert main([*arguments, "--allow-error", "1e-3"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert (
        facts["manifest"]["parity"]["allow_error"] == facts["manifest"]["parity"]["bound"] == 1e-3
    )
    text = Path(facts["folder"]).with_name("config.pbtxt").read_text()
    assert 'key: "parity.allow_error"' in text and 'string_value: "0.001"' in text
    assert main(arguments) == 65  # it is not taken for proven by a strict export


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_an_error_that_is_none(tmp_path, value):
    with pytest.raises(OptionError, match="`allow_error` must be a number above 0"):
        tiny_request(tmp_path, allow_error=float(value))


def test_relative_error_by_hand():
    found, expected = np.array([[1.0, 2.0, 5.0], [0, 0, 0]]), np.array([[1.0, 2.5, 4.0], [0, 0, 0]])
    assert relative_error(found, expected).tolist() == [0.25, 0.0]
