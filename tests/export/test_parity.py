"""The gate lets through what answers as the network does, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from seresnext101_triton.client.contract import OutputKind
from seresnext101_triton.export.errors import ParityError
from seresnext101_triton.export.gate import Gate, _same_top
from seresnext101_triton.export.precision import FP32
from seresnext101_triton.export.samples import Samples
from seresnext101_triton.export.served import ServedNetwork
from seresnext101_triton.export.weights.seeded import seeded_network
from seresnext101_triton.server.runtimes import Runtime, TensorSpec
from tests.conftest import PREPROCESSING, TINY

pytestmark = pytest.mark.numeric


class Doctored(Runtime):
    """The network itself, with its answers changed."""

    input = TensorSpec("INPUT__0", ())

    def __init__(
        self, network: ServedNetwork, change: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> None:
        self._network, self._change = network, change

    def run(self, batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self._change(self._network(torch.from_numpy(batch)).numpy(), batch)


@pytest.fixture(scope="module", params=list(OutputKind))
def network(request) -> ServedNetwork:
    return ServedNetwork(seeded_network(TINY, 0), request.param)


@pytest.fixture(scope="module")
def gate(network) -> Gate:
    return Gate(network, PREPROCESSING, 8)


def refusal(gate, network, change) -> str:
    with pytest.raises(ParityError) as error:
        gate.check("it", Doctored(network, change))
    return str(error.value)


def test_the_network_itself_passes(gate, network):
    parity = gate.check("it", Doctored(network, lambda answer, batch: answer))
    assert parity.failures == []
    assert (parity.samples, parity.batches, parity.bound) == (12, (1, 2, 8), FP32.bound)
    assert parity.relative_error < 5e-6
    assert (parity.top1, parity.top5) == (1, 1)
    assert parity.cosine == pytest.approx(1)
    assert parity.reference is not None and parity.reference.allowed == FP32.repeats_within
    scores = gate.scores(gate._expected[gate._names.index(parity.reference.photograph)])
    assert parity.reference.classes == tuple(np.argsort(-scores)[:5])
    probabilities = np.exp(scores) / np.exp(scores).sum()
    assert parity.reference.probabilities == pytest.approx(np.sort(probabilities)[:-6:-1], abs=1e-5)


def test_with_a_larger_error_allowed_no_reference_is_kept(network):
    """Another processor may then answer otherwise."""
    gate = Gate(network, PREPROCESSING, 1, allow_error=1e-2)
    parity = gate.check("it", Doctored(network, lambda answer, batch: answer))
    assert parity.reference is None


def test_a_photograph_that_is_not_answered_is_told(network):
    """The other inputs, which the gate judges, are answered."""
    gate = Gate(network, PREPROCESSING, 1, Samples(["zeros"], np.zeros((1, 3, 64, 64), np.float32)))
    with pytest.raises(ParityError, match=r"the answer for astronaut\.jpg is not finite"):
        gate.check(
            "it",
            Doctored(network, lambda answer, batch: answer if not batch.any() else answer + np.nan),
        )


def test_the_inputs_are_photographs_noise_and_extremes(gate):
    assert gate.inputs.shape == (12, 3, 64, 64)
    assert gate.inputs.dtype == np.float32
    assert len({sample.tobytes() for sample in gate.inputs}) == 12
    zeros, black, white, checkerboard = gate.inputs[-4:]
    assert not zeros.any()
    assert black[0] == pytest.approx((0 - 0.485) / 0.229)
    assert white[2] == pytest.approx((1 - 0.406) / 0.225)
    assert {checkerboard.min(), checkerboard.max()} == {black.min(), white.max()}


def test_scores_that_are_a_little_off(gate, network):
    noise = np.random.default_rng(0).standard_normal(1000, dtype=np.float32)
    message = refusal(gate, network, lambda answer, batch: answer * (1 + 1e-3 * noise))
    assert "it does not answer as the network it was made from: relative error" in message
    assert "is over 1e-05, worst for" in message


def test_one_wrong_sample_at_one_batch_size_is_enough(gate, network):
    def change(answer: np.ndarray, batch: np.ndarray) -> np.ndarray:
        if len(batch) == 8:
            answer[3] = answer[3][::-1]
        return answer

    message = refusal(gate, network, change)
    assert "at batch 8" in message
    assert "depends on its batch neighbours" in message
    assert "top-1 agrees for" in message


def test_answers_that_depend_on_their_neighbours(gate, network):
    message = refusal(
        gate,
        network,
        lambda answer, batch: (
            answer * (1 + 0.01 * (len(batch) - 1) * np.linspace(0, 1, 1000, dtype=np.float32))
        ),
    )
    assert "an answer depends on its batch neighbours" in message


def test_answers_of_other_images(gate, network):
    assert "top-1 agrees" in refusal(
        gate, network, lambda answer, batch: np.roll(answer, 1, axis=1)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(gate, network, value):
    def change(answer: np.ndarray, batch: np.ndarray) -> np.ndarray:
        answer = answer.copy()
        answer[0, 5] = value
        return answer

    assert "is not finite" in refusal(gate, network, change)


def test_answers_of_the_wrong_shape(gate, network):
    assert "a batch of 1 was answered with [1, 999], not [1, 1000]" in refusal(
        gate, network, lambda answer, batch: answer[:, :-1]
    )


def test_two_classes_of_equal_score_may_change_places(network):
    """A tie says nothing of an artifact; a bound says when two scores are one."""
    gate = Gate(network, PREPROCESSING, 1)
    expected = gate.scores(gate._expected)
    allowed = np.full(len(expected), FP32.bound)
    order = np.argsort(-expected, axis=1)
    rows = np.arange(len(expected))[:, None]
    tied = expected.copy()
    tied[rows, order[:, :2]] = expected[rows, order[:, :1]]
    assert _same_top(tied[:, ::-1], tied[:, ::-1], 5, allowed).all()
    swapped = tied.copy()
    swapped[rows[:, 0], order[:, 1]] += 1e-9
    assert _same_top(swapped, tied, 5, allowed).all()
    far = expected.copy()
    far[rows[:, 0], order[:, 7]] = expected[rows[:, 0], order[:, 0]] + 1
    assert not _same_top(far, expected, 5, allowed).any()


def test_a_maximum_batch_of_one(network):
    parity = Gate(network, PREPROCESSING, 1).check(
        "it", Doctored(network, lambda answer, batch: answer)
    )
    assert parity.batches == (1,)
