"""The distribution of every tensor's values over the calibration images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import onnx
import onnxruntime

from seresnext101_triton.export.format import INPUT, OUTPUT

_BINS = 4096


class Histogram:
    """Magnitudes of one tensor, counted in bins of equal width from 0 to a power of two.

    The upper end is doubled when a larger magnitude comes.

    So one pass over the images is enough, little is held, and the largest is known to half a
    thousandth at worst.

    Attributes:
        counts: int64 [4096].
        limit: Upper end of the last bin.
        peak: The largest magnitude.
    """

    def __init__(
        self, counts: np.ndarray | None = None, limit: float = 0.0, peak: float = 0.0
    ) -> None:
        self.counts = np.zeros(_BINS, np.int64) if counts is None else counts
        self.limit = limit
        self.peak = peak

    def add(self, tensor: np.ndarray) -> None:
        """Count the values of a tensor of any shape."""
        magnitudes = np.abs(tensor.ravel())
        peak = float(magnitudes.max())
        self.peak = max(self.peak, peak)
        if not self.limit and peak:
            self.limit = 2.0 ** np.ceil(np.log2(peak))
        while peak > self.limit:
            self.counts = np.concatenate(
                [self.counts.reshape(-1, 2).sum(axis=1), np.zeros(_BINS // 2, np.int64)]
            )
            self.limit *= 2
        bins = (magnitudes * np.float32(_BINS / self.limit if self.limit else 0)).astype(np.int32)
        self.counts += np.bincount(np.minimum(bins, _BINS - 1), minlength=_BINS)


@dataclass
class Statistics:
    """What calibration found.

    Attributes:
        histograms: By the tensor's name in the FP32 graph.
        answers: The FP32 network's output for each image, float32 [N, classes].
    """

    histograms: dict[str, Histogram]
    answers: np.ndarray

    def save(self, path: Path) -> None:
        """Write them to a file, whole or not at all."""
        names = list(self.histograms)
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                np.savez_compressed(
                    file,
                    names=np.array(names),
                    counts=np.stack([self.histograms[name].counts for name in names]),
                    limits=np.array(
                        [
                            [self.histograms[name].limit, self.histograms[name].peak]
                            for name in names
                        ]
                    ),
                    answers=self.answers,
                )
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path, names: Iterable[str]) -> Statistics | None:
        """Read them from a file.

        Returns:
            None where the file is missing, damaged, or lacks one of these tensors.
        """
        try:
            with np.load(path) as file:
                rows = zip(file["names"], file["counts"], file["limits"], strict=True)
                histograms = {
                    str(name): Histogram(counts, float(limit), float(peak))
                    for name, counts, (limit, peak) in rows
                }
                answers = file["answers"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None
        return cls(histograms, answers) if histograms.keys() >= set(names) else None


def collect(
    model: onnx.ModelProto,
    names: Iterable[str],
    images: Iterable[np.ndarray],
    progress: Callable[[], None],
) -> Statistics:
    """Run the FP32 graph on each image alone and count the values of the named tensors.

    Args:
        model: The FP32 graph; not changed.
        names: Tensors in it, the input among them.
        images: float32 [3, H, W] each.
        progress: Called after every image.
    """
    observed = [name for name in names if name != INPUT]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in observed)
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    histograms = {name: Histogram() for name in [INPUT, *observed]}
    answers = []
    for image in images:
        histograms[INPUT].add(image)
        answer, *tensors = session.run([OUTPUT, *observed], {INPUT: image[None]})
        for name, tensor in zip(observed, tensors, strict=True):
            histograms[name].add(tensor)
        answers.append(answer)
        progress()
    return Statistics(histograms, np.concatenate(answers))
