"""INT8: post-training static quantisation of the exported ONNX, and the guard that judges it.

    images ─▶ statistics ─▶ thresholds ─▶ Q/DQ graph ─▶ judged on the images that were held out

One symmetric graph serves OpenVINO, which runs it in integers throughout, and TensorRT, whose rules it keeps (`qdq`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.errors import OptionError

METHODS = ("minmax", "percentile", "entropy")
AUTO = "auto"


@dataclass(frozen=True)
class Quantization:
    """How the user wants a network quantised.

    Attributes:
        calibration: A folder of images like those that will be served.
        method: One of `METHODS`, or `auto`: all are tried, and the one whose answers on calibration images are the nearest is taken.
        keep_fp32: Layers that stay in floating point; `("auto",)` leaves out the worst ones until the guard is content.
        truth: Where the images' classes are known, as `client.evaluation.read_truth` takes it; accuracy is judged then, too.
        min_agreement: The least share of held-out images for which the network's own first class must be answered.
        max_loss: How much of the accuracy may be lost on them, as a share; one image more or less is always allowed.

    Raises:
        OptionError: A value is out of range.
    """

    calibration: Path
    method: str = AUTO
    keep_fp32: tuple[str, ...] = ()
    truth: Path | None = None
    min_agreement: float = 0.95
    max_loss: float = 0.01

    def __post_init__(self) -> None:
        if self.method not in (AUTO, *METHODS):
            raise OptionError(f"unknown calibration method {self.method}: choose from {', '.join((AUTO, *METHODS))}")
        for name in ("min_agreement", "max_loss"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} is a share, from 0 to 1, not {getattr(self, name)}")
