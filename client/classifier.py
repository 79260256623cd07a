"""The client in one class: pictures in, labelled predictions out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from client.connection import Connection, ServedModel
from client.decoding import OutputKind, Prediction, decode
from client.errors import ClientError, ModelUnavailable
from client.images import ImageSource, Opening, load_image
from client.pipeline import Answer, run
from client.transport import Link

URL_VARIABLE = "TRITON_URL"
_DEFAULT_URLS = {"grpc": "localhost:8001", "http": "localhost:8000"}


def default_url(protocol: str = "grpc") -> str:
    """`$TRITON_URL` where it is set, else Triton's own default for the protocol on this machine."""
    return os.environ.get(URL_VARIABLE) or _DEFAULT_URLS[protocol]


class Classifier:
    """Classifies images with one model of one Triton server. Any thread may use it.

    Args:
        url: `host:port` of the server, or several of them, any of which may answer; `$TRITON_URL` or this machine when not given.
        model: Name of the model; may be left out where the server serves just one.
        version: A version to ask for; the server's choice when not given.
        link: How the server is spoken to: protocol, deadline, retries, headers, TLS, compression.
        opening: How pictures are opened: EXIF orientation, limits.
        draft: Let the decoder of JPEGs scale large ones down by itself: much faster, and not quite what the network was trained on.

    Raises:
        ClientError: No server, no such model, or one that is not served with this toolkit's contract.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        model: str | None = None,
        *,
        version: str = "",
        link: Link = Link(),  # noqa: B008  (both are frozen)
        opening: Opening = Opening(),  # noqa: B008
        draft: bool = False,
    ) -> None:
        self._connection = Connection(url or default_url(link.protocol), link)
        try:
            self.model: ServedModel = self._connection.describe(model or self._only_model(), version)
        except ClientError:
            self.close()
            raise
        self._opening = replace(opening, draft=self.model.preprocessing.resize) if draft else opening

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
            image: A path, an http(s) URL, the bytes of an image file, a Pillow image, or a uint8 array [height, width, 3] in RGB order.
            top: How many predictions; at most the number of classes.

        Raises:
            ImageError: It is not an image.
            ClientError: The server did not answer, or refused.
        """
        return self.classify_batch(np.ascontiguousarray(self.prepare(image)[None]), top=top)[0]

    def classify_all(self, images: Iterable[ImageSource], *, top: int = 5) -> list[list[Prediction]]:
        """`classify` for many images, in their order.

        Raises:
            ImageError: One of them is not an image; `stream` goes on with the others.
            ClientError: The server did not answer, or refused.
        """
        answers = []
        for answer in self.stream(images, top=top):
            if answer.error:
                raise answer.error
            answers.append(answer.predictions)
        return answers

    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        top: int = 5,
        batch: int | None = None,
        in_flight: int | None = None,
        ordered: bool = True,
    ) -> Iterator[Answer]:
        """`classify` for any number of images, as they come: decoding, batching and requests overlap, and memory stays bounded.

        Args:
            images: May be endless.
            top: How many predictions for each.
            batch: Images in a request; what the server's config suggests when not given.
            in_flight: Requests at the same time; likewise.
            ordered: Give answers in the order of the images, and not as they are completed.

        Yields:
            An answer for each image, with predictions or with the error that this image met.

        Raises:
            ServerUnreachable: No server answers any more, retries included.
            ModelUnavailable: The model is not served any more.
        """
        return run(self, images, top=top, batch=batch, in_flight=in_flight, ordered=ordered)

    def prepare(self, image: ImageSource) -> np.ndarray:
        """One image as the model wants it: `model.dtype` [3, crop, crop].

        Raises:
            ImageError: It is not an image.
        """
        picture = load_image(image, self._opening)
        if self.model.dtype == np.uint8:
            return self.model.preprocessing.pixels(picture).transpose(2, 0, 1)
        return self.model.preprocessing(picture).astype(self.model.dtype, copy=False)

    def classify_batch(self, batch: np.ndarray, *, top: int = 5) -> list[list[Prediction]]:
        """`classify` for prepared images.

        Args:
            batch: `model.dtype` [N, 3, crop, crop], N at most the server's maximum batch.
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
            batch: `model.dtype` [N, 3, crop, crop], N at most the server's maximum batch.
        """
        return self._connection.infer(self.model, batch)

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Return once the server serves the model (again).

        Raises:
            ClientError: It does not within the time, in seconds; the message has the server's reason.
        """
        self._connection.wait_until_ready(self.model.name, timeout_s)

    def _only_model(self) -> str:
        names = self._connection.ready_models()
        if len(names) == 1:
            return names[0]
        if not names:
            raise ModelUnavailable(f"{self._connection.url} serves no model")
        raise ModelUnavailable(f"{self._connection.url} serves {len(names)} models; choose one: {', '.join(names)}")
