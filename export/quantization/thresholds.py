"""From a histogram of magnitudes to the threshold, the largest magnitude that INT8 holds.

Larger magnitudes are clipped to the threshold.
"""

from __future__ import annotations

import numpy as np

from seresnext101_triton.export.quantization.statistics import Histogram

_PERCENTILE = 99.99
_LEVELS = 128  # magnitudes that symmetric INT8 tells apart
_BINS = 2048
_STRIDE = 16


def threshold(histogram: Histogram, method: str) -> float:
    """The largest magnitude to be held, over 0.

    Args:
        histogram: Of the tensor.
        method: `minmax` holds them all; `percentile` 99.99 % of them; `entropy` finds the bound
            whose 128 levels tell the most of the distribution, by Kullback and Leibler's measure
            (Migacz, "8-bit Inference with TensorRT", GTC 2017).
    """
    if not histogram.peak:
        return 1.0  # all zeros, whatever the scale
    width = histogram.limit / len(histogram.counts)
    if method == "minmax":
        return histogram.peak
    if method == "percentile":
        shares = np.cumsum(histogram.counts) / histogram.counts.sum()
        return min(histogram.peak, float(np.searchsorted(shares, _PERCENTILE / 100) + 1) * width)
    return min(histogram.peak, _entropy(histogram.counts, width))


def _entropy(counts: np.ndarray, width: float) -> float:
    """The bound whose quantised distribution diverges least from the distribution clipped to it."""
    used = int(np.flatnonzero(counts)[-1]) + 1
    if used > _BINS:  # as fine as the search is worth
        counts, width = counts.reshape(-1, 2).sum(axis=1), width * 2
        used = (used + 1) // 2
    counts = counts[:used].astype(np.float64)
    if used <= _LEVELS:
        return used * width
    # Zeros, which any scale holds exactly, would outweigh all else behind a ReLU.
    counts[0] = counts[1]
    bounds = [*range(_LEVELS, used, _STRIDE), used]
    divergences = [_divergence(counts, bound) for bound in bounds]
    return bounds[int(np.argmin(divergences))] * width


def _divergence(counts: np.ndarray, bound: int) -> float:
    clipped = counts[:bound].copy()
    reference = clipped.copy()
    reference[-1] += counts[bound:].sum()
    starts = np.arange(_LEVELS) * bound // _LEVELS
    lengths = np.diff(np.append(starts, bound))
    filled = np.add.reduceat((clipped > 0).astype(np.float64), starts)
    means = np.add.reduceat(clipped, starts) / np.maximum(filled, 1)
    levels = np.repeat(means, lengths) * (clipped > 0)
    reference, levels = reference / reference.sum(), levels / max(levels.sum(), 1e-30)
    present = reference > 0
    return float(
        np.sum(reference[present] * np.log(reference[present] / np.maximum(levels[present], 1e-10)))
    )
