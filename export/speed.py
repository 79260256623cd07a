"""How fast an artifact is on this machine, where that decides whether it is worth publishing.

bfloat16 pays on Intel's processors with AMX and on AMD's Zen 4 and later. On a processor with
AVX-512 BF16 but without AMX, FP32 was measured to be 1.5 times as fast. On a processor with
neither, OpenVINO computes in FP32 whatever it is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from seresnext101_triton.server.runtimes import Runtime

PAIRS = 5
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Speed:
    """How fast an artifact runs in bfloat16, against the same artifact in FP32.

    Attributes:
        ran_in: What OpenVINO computed in when it was asked for bfloat16, `bf16` or `fp32`.
        ratio: The median, over `pairs` of runs, of FP32's time over bfloat16's; None where there
            was nothing to compare.
        pairs: How often both were run, by turns.
        batch: Images in each run.
        processor: The processor that ran them.
    """

    ran_in: str
    ratio: float | None
    pairs: int
    batch: int
    processor: str

    @property
    def line(self) -> str:
        """One sentence for a person."""
        here = f"on this machine ({self.processor})"
        if self.ratio is None:
            return (
                f"bfloat16 cannot run {here}: OpenVINO computed in FP32, "
                "and the gate has proven FP32. "
                f"Publish FP32 here, or export bfloat16 where AMX (Intel) or Zen 4 (AMD) is"
            )
        measured = f"bfloat16 runs at {self.ratio:.2f} times FP32's speed {here}"
        return (
            f"{measured}: publish FP32 here, or serve where AMX (Intel) or Zen 4 (AMD) is"
            if self.ratio < 1
            else measured
        )


def int8_line(parity: Mapping[str, Any]) -> str:
    """One sentence on an INT8 model that OpenVINO did not run in integers.

    Args:
        parity: The gate's figures, with `ran_in` where the runtime tells it.

    Returns:
        The sentence; empty where OpenVINO ran the model in integers, or did not run it at all.
    """
    if parity.get("ran_in", "int8") == "int8":
        return ""
    return (
        f"this machine ({processor()}) has no VNNI, and OpenVINO's INT8 would saturate: the gate "
        "has "
        "proven the INT8 model in floating point, which is no faster than FP32. Serve it where "
        "VNNI "
        "or AMX is; NVIDIA's image would answer wrongly here"
    )


def compare(slow: Runtime, fast: Runtime, images: np.ndarray) -> float:
    """How many times as fast the second runtime is as the first.

    Args:
        slow: The runtime whose time is the numerator.
        fast: The other.
        images: float32 [N, 3, H, W].

    Returns:
        The median ratio over `PAIRS` pairs of runs. The order within a pair alternates.
    """
    for runtime in (slow, fast):
        runtime.run(images)  # the first run allocates
    ratios = []
    for pair in range(PAIRS):
        order = (slow, fast) if pair % 2 else (fast, slow)
        seconds = {id(runtime): _seconds(runtime, images) for runtime in order}
        ratios.append(seconds[id(slow)] / seconds[id(fast)])
    return median(ratios)


def _seconds(runtime: Runtime, images: np.ndarray) -> float:
    started = time.perf_counter()
    runtime.run(images)
    return time.perf_counter() - started


def processor() -> str:
    """What the kernel calls this machine's processor."""
    lines = (line.partition(":") for line in _CPUINFO.read_text(encoding="utf-8").splitlines())
    return next(
        (value.strip() for key, _, value in lines if key.strip() == "model name"),
        "unknown processor",
    )
