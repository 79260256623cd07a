"""The client in one class: pictures in, labelled predictions out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import overload

import numpy as np

from client.connection import Connection, ServedModel
from client.decoding import OutputKind, Prediction, decode
from client.errors import ClientError, ModelUnavailable
from client.images import ImageSource, load_image

DEFAULT_URL = "localhost:8001"
URL_VARIABLE = "TRITON_URL"


def default_url() -> str:
    """`$TRITON_URL` where it is set, else Triton's own default for gRPC on this machine."""
    return os.environ.get(URL_VARIABLE, DEFAULT_URL)


class Classifier:
    """Classifies images with one model of one Triton server.

    Args:
        url: `host:port` of the server's gRPC endpoint; `$TRITON_URL` or `localhost:8001` when not given.
        model: Name of the model; may be left out where the server serves just one.
        version: A version to ask for; the server's choice when not given.

    Raises:
        ClientError: No server, no such model, or one that is not served with this toolkit's contract.
    """

    def __init__(self, url: str | None = None, model: str | None = None, *, version: str = "") -> None:
        self._connection = Connection(url or default_url())
        try:
            self.model: ServedModel = self._connection.describe(model or self._only_model(), version)
        except ClientError:
            self.close()
            raise

    def __enter__(self) -> Classifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @overload
    def classify(self, images: ImageSource, *, top: int = 5) -> list[Prediction]: ...

    @overload
    def classify(self, images: Sequence[ImageSource], *, top: int = 5) -> list[list[Prediction]]: ...

    def classify(
        self, images: ImageSource | Sequence[ImageSource], *, top: int = 5
    ) -> list[Prediction] | list[list[Prediction]]:
        """The most likely classes, best first: a list of predictions for one image, a list of such lists for several.

        Args:
            images: A path, the bytes of an image file, a Pillow image or a uint8 array [height, width, 3]; or a sequence of these.
            top: How many predictions for each image; at most the number of classes.

        Raises:
            ImageError: An input is not an image.
            ClientError: The server did not answer, or refused.
        """
        if isinstance(images, list | tuple):
            return self.classify_batch(np.stack([self.prepare(image) for image in images]), top=top) if images else []
        return self.classify_batch(self.prepare(images)[None], top=top)[0]  # type: ignore[arg-type]

    def prepare(self, image: ImageSource) -> np.ndarray:
        """One image as the model wants it, float32 [3, crop, crop].

        Raises:
            ImageError: It is not an image.
        """
        return self.model.preprocessing(load_image(image))

    def classify_batch(self, batch: np.ndarray, *, top: int = 5) -> list[list[Prediction]]:
        """`classify` for prepared images.

        Args:
            batch: float32 [N, 3, crop, crop]; more than the server's maximum batch goes out in several requests.
            top: How many predictions for each image.
        """
        if not 1 <= top:
            raise ClientError(f"top must be at least 1, not {top}")
        top = min(top, self.model.classes)
        count = self.model.classes if self.model.output_kind is OutputKind.LOGITS else top
        step = max(self.model.max_batch, 1)
        predictions: list[list[Prediction]] = []
        for start in range(0, len(batch), step):
            answer = self._connection.infer_top(self.model, batch[start : start + step], count)
            predictions += [decode(entries, self.model.output_kind, top) for entries in answer]
        return predictions

    def infer(self, batch: np.ndarray) -> np.ndarray:
        """The model's own output for one request, float32 [N, classes].

        Args:
            batch: float32 [N, 3, crop, crop], N at most the server's maximum batch.
        """
        return self._connection.infer(self.model, batch)

    def _only_model(self) -> str:
        names = self._connection.ready_models()
        if len(names) == 1:
            return names[0]
        if not names:
            raise ModelUnavailable(f"{self._connection.url} serves no model")
        raise ModelUnavailable(f"{self._connection.url} serves {len(names)} models; choose one: {', '.join(names)}")
