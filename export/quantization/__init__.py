"""INT8: post-training static quantisation of the exported ONNX.

    images ─▶ statistics ─▶ thresholds ─▶ Q/DQ graph ─▶ judged on the images that were held out

One symmetric graph serves OpenVINO, which runs it in integers throughout, and TensorRT, whose rules
it keeps (`qdq`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seresnext101_triton.export.errors import OptionError

METHODS = ("minmax", "percentile", "entropy")
AUTO = "auto"


@dataclass(frozen=True)
class Quantization:
    """How the user wants a network quantised.

    Attributes:
        calibration: A folder of images like those that will be served.
        method: One of `METHODS`, or `auto`, which tries all of them and takes the one whose answers
            on calibration images are nearest to the network's own.
        keep_fp32: Layers that stay in floating point. `("auto",)` leaves more and more of the worst
            layers in floating point, until the parity gate accepts the network.
        truth: The source of the images' classes, as `seresnext101_triton.client.truth.read_truth`
            takes it. If it is given, the accuracy is judged too.
        min_agreement: The least share of held-out images for which the answer must have the
            network's own first class.
        max_loss: How much of the network's accuracy on them may be lost, as a share. One image more
            or less is always allowed.

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
            raise OptionError(
                f"unknown calibration method {self.method}: "
                f"choose from {', '.join((AUTO, *METHODS))}"
            )
        for name in ("min_agreement", "max_loss"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"`{name}` is a share, from 0 to 1, not {getattr(self, name)}")
