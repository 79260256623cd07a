"""The parity gate: it refuses an artifact that does not answer as the network it was made from.

The gate runs the artifact with the runtime that will serve it. It compares the answers with those
of the eager FP32 network on photographs, on noise and on extreme inputs, at batch 1, at batch 2 and
at the maximum batch. If an error is over the bound, `seresnext101_triton.export.yardstick` compares
both with float64, which tells whether the artifact or the network has the rounding error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from seresnext101_triton.client.contract import OutputKind, Preprocessing
from seresnext101_triton.client.images import load_image
from seresnext101_triton.export.errors import ParityError
from seresnext101_triton.export.parity import Distances, Parity
from seresnext101_triton.export.precision import FP32, Judgement, Precision
from seresnext101_triton.export.samples import Samples, default_samples
from seresnext101_triton.export.served import ServedNetwork
from seresnext101_triton.export.yardstick import MULTIPLE, Yardstick, batches_of, relative_error
from seresnext101_triton.server.reference import PHOTOGRAPH, Reference, reference_of
from seresnext101_triton.server.runtimes import Runtime

# Smaller probabilities count as equal, because they do not matter to a client: Triton's
# classification extension prints six decimals. The limit is far below that, so that the gate
# notices two exchanged classes even if both are improbable.
_SMALLEST_PROBABILITY = 1e-12


class Gate:
    """Compares artifacts with one network.

    Args:
        network: The eager network in FP32, with the output that is served.
        preprocessing: How images are prepared. It gives the size and the range of the inputs.
        max_batch: The largest batch with which an artifact will be served.
        samples: The inputs. None means photographs, noise and extreme inputs.
        allow_error: A bound that the user allows. It replaces the bound of a precision if it is
            larger.

    Attributes:
        inputs: float32 [N, 3, crop, crop].

    Raises:
        ParityError: The network's own answer is not finite.
    """

    def __init__(
        self,
        network: ServedNetwork,
        preprocessing: Preprocessing,
        max_batch: int,
        samples: Samples | None = None,
        *,
        allow_error: float | None = None,
    ) -> None:
        self._kind = network.output
        self._batches = tuple(sorted({1, min(2, max_batch), max_batch}))
        self._samples = samples or default_samples(preprocessing)
        self._allow_error = allow_error
        self._names, self.inputs = self._samples.names, self._samples.inputs
        self._photograph = preprocessing.prepared(load_image(PHOTOGRAPH))
        with torch.inference_mode():
            answers = [network(torch.from_numpy(sample[None])).numpy() for sample in self.inputs]
        self._expected = np.concatenate(answers)
        if culprit := self._not_finite(self._expected):
            raise ParityError(
                f"the network itself does not answer {culprit} with finite numbers in FP32: "
                "its weights cannot be served, by any runtime"
            )
        self._yardstick = Yardstick(network, self.inputs, self._batches, self.scores)

    def measure(self, runtime: Runtime, precision: Precision = FP32, device: str = "cpu") -> Parity:
        """Run an artifact on every input at every batch size and compare.

        Args:
            runtime: The runtime with the loaded artifact.
            precision: The precision in which the artifact computes.
            device: The device onto which the artifact was loaded.

        Raises:
            ParityError: The artifact cannot run one of the batches, or an answer has the wrong
                shape or is not finite.
        """
        answers = np.stack([self._run(runtime, batch) for batch in self._batches])
        scores, expected = self.scores(answers), self.scores(self._expected)
        errors = np.stack([relative_error(found, expected) for found in scores])
        neighbours = relative_error(scores[-1], scores[0])
        bound = max(precision.bound, self._allow_error or 0.0)
        judged = self._against_float64(precision, answers, errors.max(axis=0), neighbours, bound)
        by_classes = precision.judgement is Judgement.CLASSES
        if by_classes:
            agree = partial(_among_first, expected=expected)
        else:
            allowed = [judged[name].allowed if name in judged else bound for name in self._names]
            agree = partial(_same_top, expected=expected, allowed=np.array(allowed))
        top1, top5 = (np.mean([agree(found, count=count) for found in scores]) for count in (1, 5))
        batch, sample = np.unravel_index(errors.argmax(), errors.shape)
        network_accuracy = self._accuracy(self._expected)
        most_lost = max(self._samples.most_lost, 1.001 / len(self.inputs))
        return Parity(
            samples=len(self.inputs),
            batches=self._batches,
            relative_error=float(errors.max()),
            max_abs_error=float(np.abs(answers - self._expected).max()),
            mean_abs_error=float(np.abs(answers - self._expected).mean()),
            cosine=min(float(_cosine(found, expected).min()) for found in scores),
            top1=float(top1),
            top5=float(top5),
            neighbour_error=float(neighbours.max()),
            worst=f"{self._names[sample]} at batch {self._batches[batch]}",
            bound=bound,
            device=device,
            least_top1=self._samples.least_top1 if by_classes else 1.0,
            least_top5=0.0 if by_classes else 1.0,
            accuracy=self._accuracy(answers[0]),
            network_accuracy=network_accuracy,
            least_accuracy=(network_accuracy or 0.0) - most_lost,
            float64=judged,
            allow_error=self._allow_error,
        )

    def inputs_for(self, runtime: Runtime) -> np.ndarray:
        """The inputs as an artifact takes them: `inputs`, or the pixels that they are made of."""
        if runtime.input.dtype != "uint8":
            return self.inputs
        assert self._samples.pixels is not None  # only exports of such a contract make such a graph
        return self._samples.pixels

    def check(
        self, name: str, runtime: Runtime, precision: Precision = FP32, device: str = "cpu"
    ) -> Parity:
        """Call `measure`, and refuse an artifact that must not be published.

        Raises:
            ParityError: The artifact must not be published. The message says why.
        """
        if (runtime.input.dtype == "uint8") != (self._samples.pixels is not None):
            raise ParityError(
                f"{name} takes {runtime.input.dtype}, and clients would send another type"
            )
        parity = self.measure(runtime, precision, device)
        if parity.failures:
            raise ParityError(
                f"{name} does not answer as the network it was made from: "
                f"{'; '.join(parity.failures)}"
            )
        if parity.warnings or parity.allow_error:
            return parity
        return replace(parity, reference=self._reference(runtime, precision))

    def scores(self, output: np.ndarray) -> np.ndarray:
        """The logits, or the log-probabilities if the model serves probabilities.

        Args:
            output: An output tensor of any shape. Its last axis is the classes.

        Returns:
            float64, of the same shape.
        """
        output = output.astype(np.float64)
        if self._kind is OutputKind.PROBABILITIES:
            return np.log(np.maximum(output, _SMALLEST_PROBABILITY))
        return output

    def _reference(self, runtime: Runtime, precision: Precision) -> Reference:
        """What an artifact answers for the photograph.

        Raises:
            ParityError: The answer is not finite.
        """
        scores = self.scores(runtime.run(self._photograph[None])[0])
        if not np.isfinite(scores).all():
            raise ParityError(f"the answer for {PHOTOGRAPH.name} is not finite")
        exponentials = np.exp(scores - scores.max())
        return reference_of(exponentials / exponentials.sum(), precision.repeats_within)

    def _accuracy(self, answers: np.ndarray) -> float | None:
        """The share of answers [N, classes] whose first class is true. None if it is not known."""
        truth = self._samples.truth
        return None if truth is None else float((answers.argmax(axis=1) == truth).mean())

    def _against_float64(
        self,
        precision: Precision,
        answers: Iterable[np.ndarray],
        errors: np.ndarray,
        neighbours: np.ndarray,
        bound: float,
    ) -> dict[str, Distances]:
        """The inputs on which an error is over the bound, each with the allowed error.

        Args:
            precision: The precision in which the artifact computes.
            answers: The answers for each batch size, [N, classes].
            errors: The largest relative error of each input over the batch sizes.
            neighbours: The relative error between the answers for each input in different batches.
            bound: If both errors of an input are at most this, it is not compared with float64.
        """
        over = np.flatnonzero(~((errors <= bound) & (neighbours <= bound))).tolist()
        if not over:
            return {}
        if precision.judgement is Judgement.CLASSES:
            return {
                self._names[index]: Distances(errors[index], None, neighbours[index], bound)
                for index in over
            }
        found = self._yardstick.distances(answers, over)
        own = self._yardstick.own(precision, over)
        return {
            self._names[index]: Distances(
                found[index], own[index], neighbours[index], max(bound, MULTIPLE * own[index])
            )
            for index in over
        }

    def _run(self, runtime: Runtime, batch: int) -> np.ndarray:
        """Run every input in batches of exactly `batch`, and return the answers [N, classes].

        The last batch is filled up with the first inputs.
        """
        answers, inputs = [], self.inputs_for(runtime)
        for rows, count in batches_of(len(inputs), batch):
            try:
                answer = runtime.run(inputs[rows])
            except Exception as error:  # a runtime's exceptions share no base but Exception
                reason = str(error).strip().splitlines() or [type(error).__name__]
                raise ParityError(f"it cannot run a batch of {batch}: {reason[0]}") from error
            if answer.shape != (batch, self._expected.shape[1]):
                wanted = [batch, self._expected.shape[1]]
                raise ParityError(
                    f"a batch of {batch} was answered with {list(answer.shape)}, not {wanted}"
                )
            answers.append(answer[:count])
        answer = np.concatenate(answers)
        if culprit := self._not_finite(answer):
            raise ParityError(f"the answer for {culprit} at batch {batch} is not finite")
        return answer

    def _not_finite(self, answers: np.ndarray) -> str:
        """The name of the first input whose answer is not finite. Empty if all are finite."""
        finite = np.isfinite(answers).all(axis=1)
        return "" if finite.all() else self._names[int(np.argmin(finite))]


def _among_first(scores: np.ndarray, expected: np.ndarray, count: int) -> np.ndarray:
    """For each sample, whether the network's own first class is among the first `count` classes.

    Of classes with equal scores, the one with the lower index comes first.
    """
    found = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.asarray((found == expected.argmax(axis=1)[:, None]).any(axis=1))


def _same_top(
    scores: np.ndarray, expected: np.ndarray, count: int, allowed: np.ndarray
) -> np.ndarray:
    """For each sample, whether its first `count` classes are the expected ones in their order.

    Two classes count as equal if their scores differ by at most twice the allowed error.

    Args:
        scores: float64 [N, classes].
        expected: The scores of the network, float64 [N, classes].
        count: How many classes are compared.
        allowed: Relative errors, float64 [N].
    """
    count = min(count, expected.shape[1])
    found = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    best = -np.sort(-expected, axis=1)[:, :count]
    gap = np.abs(np.take_along_axis(expected, found, axis=1) - best)
    tolerance = 2 * np.asarray(allowed)[:, None] * np.abs(expected).max(axis=1, keepdims=True)
    return np.asarray((gap <= tolerance).all(axis=1))


def _cosine(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return np.asarray(
        (found * expected).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    )
