"""Runs a dynamic batch at once, and gives each request its own rows or its own error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Run = Callable[[np.ndarray], np.ndarray]


class BatchError(Exception):
    """A request's images, or the answer to them, are not a batch that can be served."""


def check_shape(shape: Sequence[int], largest: int = 0) -> None:
    """Refuse a request that no runtime must receive.

    After an empty batch, OpenVINO cannot answer the next request of the same size. Triton's core
    counts a batch in 32 bits, so that 2^32 + 1 images pass as one image.

    Args:
        shape: Shape of the request's input, its batch axis first.
        largest: The model's `max_batch_size`; 0 means any size.

    Raises:
        BatchError: The request holds no image, or more than `largest`.
    """
    if not shape or min(shape) < 1:
        raise BatchError(f"the request holds no image: its input has the shape {list(shape)}")
    if largest and shape[0] > largest:
        raise BatchError(
            f"the request holds {shape[0]} images, and this model takes at most {largest}"
        )


def run_together(
    run: Run, batches: Sequence[np.ndarray | Exception], *, batched: bool = True
) -> list[np.ndarray | Exception]:
    """Run the batches of several requests at once, and give each request its rows.

    If that fails, each batch is run alone, so that only the faulty request ends with an error.

    Args:
        run: Maps [N, ...] to [N, ...].
        batches: For each request an array with the batch axis first, or the exception with which
            the request has ended already.
        batched: Whether the answer must have a row for every image. A model without batching may
            have no batch axis.

    Returns:
        For each request its rows of the output, or its exception.
    """
    whole = [batch for batch in batches if not isinstance(batch, Exception)]
    answers = iter(_answers(run, whole, batched))
    return [batch if isinstance(batch, Exception) else next(answers) for batch in batches]


def _answers(
    run: Run, batches: Sequence[np.ndarray], batched: bool
) -> list[np.ndarray | Exception]:
    if len(batches) > 1:
        try:
            output = _answer(run, np.concatenate(batches), batched=True)
            return list(np.split(output, np.cumsum([len(batch) for batch in batches])[:-1]))
        except Exception:  # noqa: BLE001  (any error: each request is run alone)
            return [answer for batch in batches for answer in _answers(run, [batch], batched)]
    try:
        return [_answer(run, batch, batched) for batch in batches]
    except Exception as error:  # noqa: BLE001  (any error is the request's answer)
        return [error]


def _answer(run: Run, batch: np.ndarray, batched: bool) -> np.ndarray:
    """Run one batch.

    Raises:
        BatchError: The answer does not have one row for each image.
    """
    output = run(batch)
    if batched and len(output) != len(batch):
        raise BatchError(f"the model answered {len(batch)} images with {len(output)} rows")
    return output
