"""One dynamic batch is one run, and each request gets its own rows or its own error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Run = Callable[[np.ndarray], np.ndarray]


def run_together(run: Run, batches: Sequence[np.ndarray]) -> list[np.ndarray | Exception]:
    """Run several requests' batches at once and give each its rows.

    Where that fails, each is run alone, so that only the offending request ends in an error.

    Args:
        run: Maps [N, ...] to [N, ...].
        batches: One array per request, each with a batch axis first.

    Returns:
        For each request its rows of the output, or the exception that it alone caused.
    """
    if len(batches) == 1:
        try:
            return [run(batches[0])]
        except Exception as error:
            return [error]
    try:
        output = run(np.concatenate(batches))
    except Exception:
        return [answer for batch in batches for answer in run_together(run, [batch])]
    return list(np.split(output, np.cumsum([len(batch) for batch in batches])[:-1]))
