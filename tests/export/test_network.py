"""The network is NVIDIA's, in every name and number that a checkpoint depends on."""

from __future__ import annotations

import pytest
import torch

from seresnext101_triton.export.network import (
    ARCHITECTURES,
    Architecture,
    Bottleneck,
    SEResNeXt,
    SqueezeAndExcitation,
)
from tests.conftest import TINY

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def full() -> SEResNeXt:
    with torch.device("meta"):
        return SEResNeXt(Architecture())


def test_it_has_as_many_parameters_and_entries_as_nvidias(full):
    assert sum(parameter.numel() for parameter in full.parameters()) == 45_251_128
    assert len(full.state_dict()) == 758


def test_its_names_are_nvidias(full):
    names = set(full.state_dict())
    block = {f"{layer}{n}.weight" for layer in ("conv", "bn") for n in (1, 2, 3)}
    block |= {
        f"bn{n}.{part}"
        for n in (1, 2, 3)
        for part in ("bias", "running_mean", "running_var", "num_batches_tracked")
    }
    block |= {
        f"squeeze.{layer}.{part}" for layer in ("squeeze", "expand") for part in ("weight", "bias")
    }
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "fc.weight", "fc.bias"} | {f"bn1.{part}" for part in norm}
    for stage, depth in enumerate((3, 4, 23, 3)):
        expected |= {f"layers.{stage}.{index}.{name}" for index in range(depth) for name in block}
        expected |= {f"layers.{stage}.0.downsample.0.weight"} | {
            f"layers.{stage}.0.downsample.1.{part}" for part in norm
        }
    assert names == expected


def test_the_squeeze_is_16_wide_everywhere(full):
    gates = [module for module in full.modules() if isinstance(module, SqueezeAndExcitation)]
    assert len(gates) == 33
    assert {gate.squeeze.out_channels for gate in gates} == {16}
    assert {gate.squeeze.in_channels for gate in gates} == {256, 512, 1024, 2048}


def test_the_stride_is_in_the_grouped_convolution(full):
    blocks = [module for module in full.modules() if isinstance(module, Bottleneck)]
    assert {block.conv1.stride for block in blocks} == {(1, 1)}
    assert [block.conv2.stride[0] for block in blocks if block.downsample is not None] == [
        1,
        2,
        2,
        2,
    ]
    assert {block.conv2.groups for block in blocks} == {32}


def test_a_block_adds_the_gated_branch_to_the_identity():
    torch.manual_seed(0)
    block = Bottleneck(64, 32, 1, TINY).eval()
    x = torch.randn(2, 64, 8, 8)
    with torch.no_grad():
        branch = block.bn3(
            block.conv3(block.bn2(block.conv2(block.bn1(block.conv1(x)).relu())).relu())
        )
        means = branch.mean((2, 3))
        hidden = (
            means @ block.squeeze.squeeze.weight.flatten(1).T + block.squeeze.squeeze.bias
        ).relu()
        gate = (
            hidden @ block.squeeze.expand.weight.flatten(1).T + block.squeeze.expand.bias
        ).sigmoid()
        expected = (branch * gate[:, :, None, None] + x).relu()
        torch.testing.assert_close(block(x), expected)


def test_shapes():
    network = SEResNeXt(TINY).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)
        assert network(torch.zeros(1, 3, 96, 64)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"depths": (1, 1)}, "2 depths for 4 widths"),
        ({"cardinality": 24}, "cannot be split into 24 groups"),
        ({"classes": 0}, "at least 1"),
    ],
)
def test_impossible_architectures(numbers, message):
    with pytest.raises(ValueError, match=message):
        Architecture(**numbers)


def test_the_small_one_has_every_kind_of_layer():
    def kinds(architecture):
        with torch.device("meta"):
            return {type(module) for module in SEResNeXt(architecture).modules()}

    assert kinds(ARCHITECTURES["se-resnext-tiny"]) == kinds(Architecture())
