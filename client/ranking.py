"""Separates a ranking of Triton's classification extension into one ranking for each image.

Triton ranks all images of a request in one row if the model has no batcher.
"""

from __future__ import annotations

import numpy as np

from seresnext101_triton.client.errors import ContractError


def ranked_apart(entries: np.ndarray, samples: int, classes: int) -> np.ndarray:
    """Separate the ranking of all images' scores.

    The index of an entry counts on from image to image. Triton looks up labels by that index, so
    that only the classes of the first image have labels.

    Args:
        entries: All `samples * classes` entries `value:index:label`, highest value first.
        samples: Images in the batch.
        classes: Scores of each image.

    Returns:
        Bytes [samples, classes]: the ranking of each image with indices from 0 and with labels.

    Raises:
        ContractError: The entries are not such a ranking.
    """
    rows: list[list[tuple[bytes, int]]] = [[] for _ in range(samples)]
    labels: dict[int, bytes] = {}
    try:
        for entry in entries:
            value, index, *label = entry.split(b":", 2)
            sample, number = divmod(int(index), classes)
            rows[sample].append((value, number))
            if label:
                labels[number] = b":" + label[0]
    except (AttributeError, IndexError, TypeError, ValueError):
        rows = []
    if [len({number for _, number in row}) for row in rows] != [classes] * samples or len(
        entries
    ) != samples * classes:
        raise ContractError(
            f"the server's ranking of {samples} images is not that of {samples} times {classes} "
            "classes"
        )
    ranked = [
        [b"%b:%d%b" % (value, number, labels.get(number, b"")) for value, number in row]
        for row in rows
    ]
    return np.array(ranked, np.object_)
