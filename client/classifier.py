"""The client in one class: pictures in, labelled predictions out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice

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

    def classify(self, image: ImageSource, *, top: int = 5) -> list[Prediction]:
        """The most likely classes of one image, best first.

        Args:
            image: A path, the bytes of an image file, a Pillow image, or a uint8 array [height, width, 3] in RGB order.
            top: How many predictions; at most the number of classes.

        Raises:
            ImageError: It is not an image.
            ClientError: The server did not answer, or refused.
        """
        return self.classify_all([image], top=top)[0]

    def classify_all(self, images: Iterable[ImageSource], *, top: int = 5) -> list[list[Prediction]]:
        """`classify` for many images, in requests of the server's maximum batch, in their order."""
        answers: list[list[Prediction]] = []
        remaining = iter(images)
        while batch := [self.prepare(image) for image in islice(remaining, max(self.model.max_batch, 1))]:
            answers += self.classify_batch(np.stack(batch), top=top)
        return answers

    def prepare(self, image: ImageSource) -> np.ndarray:
        """One image as the model wants it, float32 [3, crop, crop].

        Raises:
            ImageError: It is not an image.
        """
        return self.model.preprocessing(load_image(image))

    def classify_batch(self, batch: np.ndarray, *, top: int = 5) -> list[list[Prediction]]:
        """`classify` for prepared images.

        Args:
            batch: float32 [N, 3, crop, crop], N at most the server's maximum batch.
            top: How many predictions for each image.

        Raises:
            ClientError: The server did not answer, or refused.
        """
        if top < 1:
            raise ClientError(f"top must be at least 1, not {top}")
        top = min(top, self.model.classes)
        count = self.model.classes if self.model.output_kind is OutputKind.LOGITS else top
        answer = self._connection.infer_top(self.model, batch, count)
        return [decode(entries, self.model.output_kind, top) for entries in answer]

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
