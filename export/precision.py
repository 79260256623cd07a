"""The precisions that artifacts compute in. Each is one value.

A format lists those that it has; no other module knows them by name.

This module needs no other package than the standard library, because
`seresnext101_triton.export.tensorrt` also runs where no other package is installed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

from seresnext101_triton.export.errors import OptionError


class Judgement(Enum):
    """How the parity gate judges an artifact whose error is over its bound."""

    SCORES = "scores"  # by the distance of its scores from the network's own in float64
    CLASSES = "classes"  # by the classes that it names


@dataclass(frozen=True)
class Precision:
    """One precision.

    Attributes:
        name: What the option `precision` calls it.
        suffix: What follows the format's name in the name of a model.
        summary: When to use it, for the help text.
        bound: The largest relative error of the scores that needs no further judgement.
        judgement: How a larger error is judged.
        made_in: The torch dtype, by name, of the network that artifacts are made from.
        computes_in: The torch dtype, by name, that the eager network computes in where an
            artifact's rounding is compared with the network's own.
        quantized: Whether an artifact is made from a quantised ONNX, which needs images to
            calibrate with.
        fp32_squeeze: Whether each Squeeze-and-Excitation stays in FP32.
        repeats_within: The largest distance (`seresnext101_triton.server.reference`) between the
            answers of one artifact on two processors.
    """

    name: str
    suffix: str
    bound: float
    judgement: Judgement = Judgement.SCORES
    made_in: str = "float32"
    computes_in: str = "float32"
    quantized: bool = False
    fp32_squeeze: bool = False
    summary: str = ""
    repeats_within: float = 0.05

    @property
    def is_cast(self) -> bool:
        """Whether artifacts are made from a network that was cast to a narrower dtype."""
        return self.made_in != "float32"

    def identity(self) -> dict[str, Any]:
        """What of it decides what an artifact looks like and what it is proven to be."""
        facts = asdict(self) | {"judgement": self.judgement.value}
        others = ("summary", "repeats_within")
        return {name: value for name, value in facts.items() if name not in others}

    def with_fp32_squeeze(self) -> Precision:
        """This precision, with the squeezes in FP32; the same where they are in FP32 anyway."""
        return replace(self, fp32_squeeze=self.is_cast)


# How well answers repeat: one artifact, run with the instructions of five generations of processors
# (SSE4.1 to AVX-512 with bfloat16), was measured at 5e-6 in FP32, 4e-2 in bfloat16 and 7e-2 in
# INT8 (the small networks of the tests, 2026-11-27); artifacts of other weights, at 0.37 to 0.97.

# The bounds. FP32 runtimes were measured between 2e-7 and 8e-7 on conditioned weights; the bound
# leaves room for other processors' convolutions, and none for a wrong graph.
FP32 = Precision("fp32", "", 1e-5)
# FP16 rounds every activation to 11 bits: 5e-4 of its size. The eager FP16 network was measured at
# 1e-3 (full size, on a CPU); kernels that add in another order, or in FP16, may come to a few
# times that.
FP16 = Precision(
    "fp16", "_fp16", 1e-2, made_in="float16", computes_in="float16", repeats_within=0.1
)
# bfloat16 rounds to 8 bits: 4e-3 of a value's size. OpenVINO was measured at 1.9e-2 (full size).
# The artifact is FP32's own; the runtime rounds.
BF16 = Precision(
    "bf16",
    "_bf16",
    1e-1,
    computes_in="bfloat16",
    repeats_within=0.25,
    summary=", where the processor computes it fast: Intel's AMX, AMD's Zen 4 and later",
)
# INT8 is judged by the classes that it names, on images that were held out of its calibration.
# Its bound only tells a wrong graph from a right one.
INT8 = Precision(
    "int8",
    "_int8",
    5e-1,
    Judgement.CLASSES,
    quantized=True,
    repeats_within=0.5,
    summary=", needs images to calibrate with",
)

PRECISIONS = {precision.name: precision for precision in (FP32, FP16, BF16, INT8)}


def precision_named(name: str) -> Precision:
    """The precision with a name.

    Raises:
        OptionError: There is none.
    """
    if name not in PRECISIONS:
        raise OptionError(f"unknown precision {name}: choose from {', '.join(PRECISIONS)}")
    return PRECISIONS[name]
