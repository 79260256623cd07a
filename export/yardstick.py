"""How far a network's own rounding takes it from its answers in float64.

A bound on the distance between two FP32 computations means something only where FP32 itself is
exact enough. On some inputs, and with some weights, the eager FP32 network is further than the
bound from its own float64 answer. There an artifact may be as far off as a small multiple of that
distance. float64 is slow, so the gate uses it only for inputs on which an artifact's error is over
the bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy

import numpy as np
import torch
from torch import nn

from seresnext101_triton.export.precision import Precision
from seresnext101_triton.export.served import ServedNetwork

# An artifact may be this many times as far from float64 as the eager network in the artifact's own
# precision, whose worst form counts. On networks whose own FP32 is over the bound, ONNX Runtime,
# OpenVINO and TorchScript were measured at up to 2.0 times (the networks of
# tests/export/test_gate_mutants.py, on a processor with AVX-512 and AMX). How much rounding is
# amplified is a matter of luck, so the limit leaves room.
MULTIPLE = 8.0

Scores = Callable[[np.ndarray], np.ndarray]


class Yardstick:
    """One network's float64 answers to the gate's inputs, and its own rounding errors.

    Args:
        network: As it is served, FP32.
        inputs: float32 [N, 3, H, W].
        batches: The batch sizes that artifacts are run at.
        scores: Maps an output to the scores that are compared.
    """

    def __init__(
        self, network: ServedNetwork, inputs: np.ndarray, batches: Iterable[int], scores: Scores
    ) -> None:
        self._network, self._inputs, self._batches, self._scores = (
            network,
            inputs,
            tuple(batches),
            scores,
        )
        self._truth: dict[int, np.ndarray] = {}
        self._own: dict[tuple[Precision, int], float] = {}

    def distances(self, answers: Iterable[np.ndarray], samples: Iterable[int]) -> dict[int, float]:
        """The largest relative error of each sample's scores against float64.

        Args:
            answers: Outputs for all inputs, one array [N, classes] for each batch size.
            samples: Indices of inputs.
        """
        wanted = list(samples)
        truth = self._scores(self._float64_answers(wanted))
        errors = [relative_error(self._scores(answer[wanted]), truth) for answer in answers]
        return dict(zip(wanted, map(float, np.max(errors, axis=0)), strict=True))

    def own(self, precision: Precision, samples: Iterable[int]) -> dict[int, float]:
        """The same of the eager network in a precision, at the same batch sizes.

        Each sample has the same neighbours in its batch as in the artifact's runs.

        Args:
            precision: What the artifact computes in.
            samples: Indices of inputs.
        """
        wanted = list(samples)
        if missing := [sample for sample in wanted if (precision, sample) not in self._own]:
            for sample in missing:
                self._own[precision, sample] = 0.0
            for network in self._variants(precision):
                answers = [self._answers(network, batch, missing) for batch in self._batches]
                for sample, distance in self.distances(answers, missing).items():
                    self._own[precision, sample] = max(self._own[precision, sample], distance)
        return {sample: self._own[precision, sample] for sample in wanted}

    def _variants(self, precision: Precision) -> Iterator[ServedNetwork]:
        """The network in several forms, which round the same computation differently.

        One form alone may be right by luck: where the large contributions of two equal channels
        cancel each other, a kernel that rounds both alike hides how much rounding is amplified.
        """
        folded = self._network.folded()
        dtype = getattr(torch, precision.computes_in)
        if dtype != self._network.dtype:
            cast = folded.cast(dtype, fp32_squeeze=precision.fp32_squeeze)
            yield from (cast, _rounded_at_random(cast))
            return
        yield self._network
        yield folded
        yield deepcopy(folded).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        yield _rounded_at_random(folded)

    def _float64_answers(self, samples: list[int]) -> np.ndarray:
        """The network's float64 answers, float64 [len(samples), classes]."""
        if missing := [sample for sample in samples if sample not in self._truth]:
            network = self._network.in_float64()
            with torch.inference_mode():
                for sample in missing:
                    self._truth[sample] = network(
                        torch.from_numpy(self._inputs[sample][None]).double()
                    ).numpy()[0]
        return np.stack([self._truth[sample] for sample in samples])

    def _answers(self, network: ServedNetwork, batch: int, samples: list[int]) -> np.ndarray:
        """Outputs for all inputs, [N, classes].

        Only the batches that hold one of the samples are run; all other rows are 0.
        """
        answers = None
        with torch.inference_mode():
            for rows, count in batches_of(len(self._inputs), batch):
                if set(samples) & set(rows[:count]):
                    output = network(torch.from_numpy(self._inputs[rows])).numpy()
                    answers = (
                        np.zeros((len(self._inputs), output.shape[1]), output.dtype)
                        if answers is None
                        else answers
                    )
                    answers[rows[:count]] = output[:count]
        assert answers is not None
        return answers


def _rounded_at_random(network: ServedNetwork) -> ServedNetwork:
    """A copy that changes each value which a layer computes by as much as rounding may.

    This is Monte Carlo arithmetic (Parker, 1997): the distance of its answers from the exact ones
    is what rounding does to this network on any processor. A sum of n terms that are added one by
    one in FP32 has a rounding error of about 0.2 eps sqrt(n) standard deviations, and a result is
    rounded once more to its own type. The changes are the same in every run.
    """
    generator = torch.Generator().manual_seed(0)

    def round_at_random(
        layer: nn.Conv2d | nn.Linear, __: object, output: torch.Tensor
    ) -> torch.Tensor:
        terms = layer.weight[0].numel()
        summing = 0.2 * math.sqrt(3 * terms) * torch.finfo(torch.float32).eps
        most = max(summing, torch.finfo(output.dtype).eps)
        changes = most * (2 * torch.rand(output.shape, generator=generator) - 1)
        return (output.float() * (1 + changes)).to(output.dtype)

    copy = deepcopy(network)
    for module in copy.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(round_at_random)
    return copy


def batches_of(count: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Batches of exactly `size` inputs; the last one is filled up with the first inputs.

    Yields:
        The indices of a batch's inputs, and how many of them are not there to fill it up.
    """
    for start in range(0, count, size):
        yield np.arange(start, start + size) % count, min(size, count - start)


def relative_error(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Per sample, the largest absolute error of its scores over its largest score, [N].

    The result is not finite where the answer is not.
    """
    return np.asarray(
        np.abs(found - expected).max(axis=1)
        / np.maximum(np.abs(expected).max(axis=1), np.finfo(np.float64).tiny)
    )
