"""The parity gate: an artifact that does not answer as the network it was made from is never published.

The artifact is run by the very runtime that will serve it, and held against the eager FP32 network on real photographs and on random and
extreme inputs, at batch 1, 2 and the maximum.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from client.decoding import OutputKind
from client.images import load_image, sample_photographs
from client.preprocessing import Preprocessing
from export.errors import ParityError
from export.formats.served import ServedNetwork
from server.runtimes import Runtime

# Largest allowed relative error of the scores, by the precision an artifact computes in. FP32 runtimes were measured between 2e-7 and
# 8e-7 on conditioned weights; the bound leaves room for other processors' convolutions, and none for a wrong graph.
#
# FP16 rounds every activation to 11 bits: 5e-4 of its size. The eager FP16 network was measured at 1e-3 (full size, on a CPU); kernels that
# add in another order, or in FP16, may come to a few times that.
#
# bfloat16 rounds to 8 bits: 4e-3 of a value's size. OpenVINO was measured at 1.9e-2 (full size).
#
# INT8 is judged by the classes it names, on images that were held out of its calibration; this bound only tells a wrong graph.
BOUNDS = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 1e-1, "int8": 5e-1}

_RANDOM_INPUTS = 4
# Runtimes' exponentials give up at different places before FP32's smallest normal number, 1.2e-38: OpenVINO's answers 0 for 1.3e-38.
_SMALLEST_PROBABILITY = 1e-30


@dataclass(frozen=True)
class Samples:
    """What artifacts are run on.

    Attributes:
        names: What each is called.
        inputs: float32 [N, 3, crop, crop].
        truth: Their classes, int [N], where they are known.
        least_top1: The share of answers in INT8 that must have the network's own first class; nearly equal scores are no excuse there.
        most_lost: How much of the network's accuracy may be lost, as a share; one sample more or less is always allowed.
    """

    names: list[str]
    inputs: np.ndarray
    truth: np.ndarray | None = None
    least_top1: float = 1.0
    most_lost: float = 0.0


@dataclass(frozen=True)
class Parity:
    """How far an artifact's answers are from the network's.

    Scores are the logits, or the log-probabilities where the softmax is in the graph.

    Attributes:
        samples: How many different inputs were compared.
        batches: The batch sizes each of them was run at.
        relative_error: The largest absolute error of a sample's scores over that sample's largest score; the worst over all.
        max_abs_error: Of the output as served, over all samples.
        mean_abs_error: The same, on average.
        cosine: The smallest cosine between a sample's scores and the network's.
        top1: Share of answers with the network's first class, one of equal score being as good.
        top5: Share of answers with the network's first five, in their order; in INT8, with its first class among their first five.
        neighbour_error: As `relative_error`, between a sample's answer alone and among the others of the maximum batch.
        worst: The input and batch with the largest error.
        bound: What `relative_error` and `neighbour_error` may be at most.
        device: Where the artifact ran, `cpu` or `cuda:N`.
        least_top1: What `top1` must be at least.
        least_top5: What `top5` must be.
        accuracy: Share of answers with the true class first, where it is known.
        network_accuracy: The same of the network's own.
        least_accuracy: What `accuracy` must be at least.
    """

    samples: int
    batches: tuple[int, ...]
    relative_error: float
    max_abs_error: float
    mean_abs_error: float
    cosine: float
    top1: float
    top5: float
    neighbour_error: float
    worst: str
    bound: float
    device: str
    least_top1: float = 1.0
    least_top5: float = 1.0
    accuracy: float | None = None
    network_accuracy: float | None = None
    least_accuracy: float = 0.0

    @property
    def failures(self) -> list[str]:
        """Everything the artifact must not be published for."""
        checks = {
            f"relative error {self.relative_error:.1e} is over {self.bound:.0e}, worst for {self.worst}": not self.relative_error
            <= self.bound,
            f"an answer depends on its batch neighbours, by {self.neighbour_error:.1e}": not self.neighbour_error <= self.bound,
            f"top-1 agrees for {self.top1:.1%} only{self._way_out}": self.top1 < self.least_top1,
            f"top-5 agrees for {self.top5:.1%} only": self.top5 < self.least_top5,
        }
        if self.accuracy is not None:
            lost = f"{self.accuracy:.1%} are classified as they should be, of {self.network_accuracy:.1%} by the network"
            checks[lost] = self.accuracy < self.least_accuracy
        return [message for message, failed in checks.items() if failed]

    @property
    def _way_out(self) -> str:
        if self.least_top1 == 1:
            return ""
        return f", and {self.least_top1:.1%} are demanded; give more images, or leave the worst layers out with --keep-fp32 auto"

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


class Gate:
    """Holds artifacts against one network.

    Args:
        network: The network as it is served, eager, FP32.
        preprocessing: What its inputs go through; it gives their size and range.
        max_batch: The largest batch an artifact will be served with.
        samples: What artifacts are run on; by default photographs, noise and extremes.
    """

    def __init__(self, network: ServedNetwork, preprocessing: Preprocessing, max_batch: int, samples: Samples | None = None) -> None:
        self._kind = network.output
        self._batches = tuple(sorted({1, min(2, max_batch), max_batch}))
        self._samples = samples or _inputs(preprocessing)
        self._names, self.inputs = self._samples.names, self._samples.inputs
        with torch.inference_mode():
            answers = [network(torch.from_numpy(sample[None])).numpy() for sample in self.inputs]
        self._expected = np.concatenate(answers)

    def measure(self, runtime: Runtime, precision: str = "fp32", device: str = "cpu") -> Parity:
        """Run an artifact on every input at every batch size and compare.

        Args:
            runtime: The artifact, loaded.
            precision: A key of `BOUNDS`.
            device: Where it was loaded.

        Raises:
            ParityError: Its answers have the wrong shape, or are not finite.
        """
        bound = BOUNDS[precision]
        judged_by_classes = precision == "int8"
        agreement = _among_first if judged_by_classes else partial(_same_top, bound=bound)
        least_top1 = self._samples.least_top1 if judged_by_classes else 1.0
        truth, accuracy, of_network = self._samples.truth, None, None
        answers = {batch: self._run(runtime, batch) for batch in self._batches}
        errors = {batch: relative_error(self.scores(answer), self.scores(self._expected)) for batch, answer in answers.items()}
        worst_batch = max(errors, key=lambda batch: errors[batch].max())
        worst = self._names[int(errors[worst_batch].argmax())]
        stacked, expected = np.concatenate(list(answers.values())), np.concatenate([self._expected] * len(answers))
        scores, expected_scores = self.scores(stacked), self.scores(expected)
        if truth is not None:
            accuracy = float((answers[1].argmax(axis=1) == truth).mean())
            of_network = float((self._expected.argmax(axis=1) == truth).mean())
        alone, among = self.scores(answers[1]), self.scores(answers[self._batches[-1]])
        return Parity(
            samples=len(self.inputs),
            batches=self._batches,
            relative_error=float(errors[worst_batch].max()),
            max_abs_error=float(np.abs(stacked - expected).max()),
            mean_abs_error=float(np.abs(stacked - expected).mean()),
            cosine=float(_cosine(scores, expected_scores).min()),
            top1=float(agreement(scores, expected_scores, 1).mean()),
            top5=float(agreement(scores, expected_scores, 5).mean()),
            neighbour_error=float(relative_error(among, alone).max()),
            worst=f"{worst} at batch {worst_batch}",
            bound=bound,
            device=device,
            least_top1=least_top1,
            least_top5=0.0 if judged_by_classes else 1.0,
            accuracy=accuracy,
            network_accuracy=of_network,
            least_accuracy=(of_network or 0.0) - max(self._samples.most_lost, 1.001 / len(self.inputs)),
        )

    def check(self, name: str, runtime: Runtime, precision: str = "fp32", device: str = "cpu") -> Parity:
        """`measure`, and refuse what is over the bound.

        Raises:
            ParityError: It must not be published; the message says why.
        """
        parity = self.measure(runtime, precision, device)
        if parity.failures:
            raise ParityError(f"{name} does not answer as the network it was made from: {'; '.join(parity.failures)}")
        return parity

    def _run(self, runtime: Runtime, batch: int) -> np.ndarray:
        """Every input's answer, run in batches of exactly `batch`; the last one is filled up from the front."""
        answers = []
        for start in range(0, len(self.inputs), batch):
            rows = np.arange(start, start + batch) % len(self.inputs)
            answer = runtime.run(self.inputs[rows])
            if answer.shape != (batch, self._expected.shape[1]):
                raise ParityError(f"a batch of {batch} was answered with {list(answer.shape)}, not {[batch, self._expected.shape[1]]}")
            answers.append(answer)
        answer = np.concatenate(answers)[: len(self.inputs)]
        if not np.isfinite(answer).all():
            culprit = self._names[int(np.argmin(np.isfinite(answer).all(axis=1)))]
            raise ParityError(f"the answer for {culprit} at batch {batch} is not finite")
        return answer

    def scores(self, output: np.ndarray) -> np.ndarray:
        """Logits, or log-probabilities where those are what is served; float64 [N, classes]."""
        output = output.astype(np.float64)
        if self._kind is OutputKind.PROBABILITIES:
            return np.log(np.maximum(output, _SMALLEST_PROBABILITY))
        return output


def _among_first(scores: np.ndarray, expected: np.ndarray, count: int) -> np.ndarray:
    """Per sample, whether the network's own first class is among the first `count`, ties broken by chance as for any client."""
    found = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.asarray((found == expected.argmax(axis=1)[:, None]).any(axis=1))


def _same_top(scores: np.ndarray, expected: np.ndarray, count: int, bound: float) -> np.ndarray:
    """Per sample, whether the first `count` classes are the expected ones; classes closer than the bound count as equal."""
    count = min(count, expected.shape[1])
    found = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    best = -np.sort(-expected, axis=1)[:, :count]
    gap = np.abs(np.take_along_axis(expected, found, axis=1) - best)
    tolerance = 2 * bound * np.abs(expected).max(axis=1, keepdims=True)
    return np.asarray((gap <= tolerance).all(axis=1))


def _inputs(preprocessing: Preprocessing) -> Samples:
    """Photographs, then noise, then the ends of the range."""
    photographs = {path.name: preprocessing(load_image(path)) for path in sample_photographs()}
    shape = (3, preprocessing.crop, preprocessing.crop)
    generator = np.random.default_rng(0)
    noise = {f"noise {i}": generator.standard_normal(shape, dtype=np.float32) for i in range(_RANDOM_INPUTS)}
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    black, white = np.broadcast_to((0 - mean) / std, shape), np.broadcast_to((1 - mean) / std, shape)
    checkers = np.indices(shape[1:]).sum(axis=0) % 2 == 0
    extremes = {
        "zeros": np.zeros(shape, np.float32),
        "black": black,
        "white": white,
        "checkerboard": np.where(checkers, black, white),
    }
    inputs: dict[str, np.ndarray] = photographs | noise | extremes
    return Samples(list(inputs), np.stack(list(inputs.values())).astype(np.float32))


def relative_error(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Per sample, the largest absolute error of its scores over its largest score; [N]."""
    return np.asarray(np.abs(found - expected).max(axis=1) / np.maximum(np.abs(expected).max(axis=1), _SMALLEST_PROBABILITY))


def _cosine(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return np.asarray((found * expected).sum(axis=1) / np.maximum(lengths, _SMALLEST_PROBABILITY))
