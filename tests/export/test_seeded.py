"""Seeded weights are the same for the same seed, and fit to compare runtimes on."""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.images import load_image, sample_photographs
from seresnext101_triton.export.network import SqueezeAndExcitation
from seresnext101_triton.export.weights import resolve
from seresnext101_triton.export.weights.checkpoint import sha256_of_tensors
from seresnext101_triton.export.weights.seeded import seeded_network
from tests.conftest import PREPROCESSING, QUIET, TINY

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def network():
    return seeded_network(TINY, 0)


@pytest.fixture(scope="module")
def photographs():
    return torch.stack(
        [torch.from_numpy(PREPROCESSING(load_image(path))) for path in sample_photographs()]
    )


def test_a_seed_always_gives_the_same_weights(network):
    digest = sha256_of_tensors(network.state_dict())
    torch.manual_seed(123)
    assert sha256_of_tensors(seeded_network(TINY, 0).state_dict()) == digest
    assert sha256_of_tensors(seeded_network(TINY, 1).state_dict()) != digest


def test_float32_is_as_good_as_float64_on_them(network, photographs):
    with torch.no_grad():
        exact = deepcopy(network).double()(photographs.double())
        error = (network(photographs) - exact).abs().max() / exact.abs().max()
    assert error < 5e-6


def test_logits_are_of_a_trained_networks_size_and_differ_by_photograph(network, photographs):
    with torch.no_grad():
        logits = network(photographs)
    assert 1 < logits.abs().max() < 50
    assert len(set(logits.argmax(1).tolist())) > 1


def test_every_gate_has_a_say(network, photographs):
    """The answer differs without a Squeeze-and-Excitation gate, so an export without it fails."""
    with torch.no_grad():
        expected = network(photographs)
        for name, gate in [
            item for item in network.named_modules() if isinstance(item[1], SqueezeAndExcitation)
        ]:
            broken = deepcopy(network)
            broken.get_submodule(name).expand.bias.fill_(100)  # always open
            assert (broken(photographs) - expected).abs().max() / expected.abs().max() > 1e-3, name


def test_no_layer_has_the_weights_of_a_plain_initialisation(network):
    """A converter that forgets a layer's scale, shift or bias changes the answers."""
    for name, module in deepcopy(network).requires_grad_(False).named_modules():
        if isinstance(module, nn.BatchNorm2d):
            scale = 0.2 if name.endswith("bn3") else 1.0
            assert float(module.weight.mean()) == pytest.approx(scale, abs=0.2 * scale), name
            assert float(module.weight.std()) == pytest.approx(0.2 * scale, rel=0.5), name
            assert float(module.bias.std()) == pytest.approx(0.2, rel=0.5), name
            assert module.momentum == 0.1
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            assert 0.05 < float(module.bias.std()) < 0.5, name
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            inputs = module.weight[0].numel()
            assert float(module.weight.std()) == pytest.approx(math.sqrt(2 / inputs), rel=0.2), name


def test_statistics_are_those_of_the_photographs_and_their_mirror_images(network):
    contract = Preprocessing(resize=256, crop=224)
    images = np.stack([contract(load_image(path)) for path in sample_photographs()])
    both = torch.from_numpy(np.concatenate([images, images[..., ::-1]]))
    with torch.no_grad():
        first = network.conv1(both)
        logits = network(both)
    torch.testing.assert_close(
        network.bn1.running_mean, first.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        network.bn1.running_var, first.var(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5
    )
    assert float(logits.std(dim=0).mean()) == pytest.approx(2, rel=1e-4)
    assert float(logits.mean(dim=0).abs().max()) < 1e-4


def test_they_say_that_they_are_untrained():
    network, provenance = resolve("seeded:5").load(TINY, QUIET)
    assert (provenance.kind, provenance.location, provenance.trained) == ("seeded", "seed 5", False)
    assert provenance.sha256 == sha256_of_tensors(network.state_dict())
    assert not network.training
