"""One request for the outputs of a batch: what is sent, and what its answer must be."""

from __future__ import annotations

import numpy as np

from seresnext101_triton.client.errors import ContractError, UsageError
from seresnext101_triton.client.ranking import ranked_apart
from seresnext101_triton.client.served import ServedModel
from seresnext101_triton.client.transport import TRITON_TYPES, Inference


def inference_of(model: ServedModel, batch: np.ndarray, count: int) -> Inference:
    """The request for the outputs of a batch.

    Args:
        model: The model.
        batch: `model.dtype` [N, *`model.preprocessing.shape`].
        count: How many of the highest outputs of each image, by Triton's classification extension;
            0 means all outputs as they are.

    Raises:
        UsageError: The model does not take such a batch.
    """
    fits = batch.dtype == model.dtype and batch.dtype in TRITON_TYPES
    if not fits or batch.ndim != len(model.axes) + 1 or not len(batch):
        raise UsageError(
            f"model {model.name!r} takes {model.dtype} [N, {', '.join(model.axes)}] with N at "
            f"least 1, not {batch.dtype} {list(batch.shape)}"
        )
    classes = model.classes * len(batch) if _is_in_one_row(model, batch, count) else count
    return Inference(model.name, model.version, model.input, batch, model.output, classes)


def results_of(
    model: ServedModel, inference: Inference, answer: np.ndarray | None, count: int
) -> np.ndarray:
    """The outputs of each image in the answer to `inference_of`.

    Returns:
        float32 [N, classes], or bytes [N, count] `value:index:label`, highest value first.

    Raises:
        ContractError: The answer does not belong to the request.
    """
    images = len(inference.batch)
    if answer is None:
        raise ContractError(f"model {model.name!r} answered without its output {model.output!r}")
    if count and answer.dtype != np.object_:
        raise ContractError(
            f"model {model.name!r} answered a classification with {answer.dtype}: its server lacks "
            "that extension"
        )
    if _is_in_one_row(model, inference.batch, count):
        return ranked_apart(answer.ravel(), images, model.classes)[:, :count]
    # The classes of a single image come without a batch axis too.
    answer = answer[None] if answer.ndim == 1 else answer
    if len(answer) != images:
        raise ContractError(
            f"model {model.name!r} answered {images} images with {len(answer)} results"
        )
    return answer


def _is_in_one_row(model: ServedModel, batch: np.ndarray, count: int) -> bool:
    """Whether Triton ranks the scores of all images together.

    It does so for a model without a batcher, of which it knows no batch axis.
    """
    return count > 0 and len(batch) > 1 and not model.max_batch
