"""The class `Classifier`: it sends images to a Triton server and returns labelled predictions."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace

import numpy as np

from seresnext101_triton.client.connection import Connection
from seresnext101_triton.client.contract import OutputKind
from seresnext101_triton.client.decoding import Prediction, decode
from seresnext101_triton.client.errors import (
    AccessDenied,
    ClientError,
    ContractError,
    ImageError,
    ModelUnavailable,
    RequestRejected,
    UsageError,
)
from seresnext101_triton.client.images import ImageOptions, ImageSource, errors_of
from seresnext101_triton.client.pipeline import (
    Answer,
    Outcome,
    Steps,
    StreamOptions,
    answers_of,
    run,
)
from seresnext101_triton.client.protocols import TRANSPORTS, protocol_named
from seresnext101_triton.client.served import ServedModel
from seresnext101_triton.client.server_decoding import (
    ServerSide,
    check_options,
    check_server_side,
    choose,
    image_error,
    tensor_of,
)
from seresnext101_triton.client.server_side import IMAGE_SUFFIX, PREPROCESS_PREFIX
from seresnext101_triton.client.text import reason
from seresnext101_triton.client.transport import TransportOptions

URL_VARIABLE = "TRITON_URL"


def default_url(protocol: str | None = None) -> str:
    """`$TRITON_URL`, or Triton's own port on this machine if the variable is not set.

    Args:
        protocol: The protocol whose port is taken; None means the default protocol, gRPC.
    """
    port = protocol_named(protocol or next(iter(TRANSPORTS))).port
    return os.environ.get(URL_VARIABLE, "").strip() or f"localhost:{port}"


class ImageClassifier:
    """The base class of `Classifier` and of `AsyncClassifier`.

    Attributes:
        model: What the server says about the model.
    """

    model: ServedModel
    _image_options: ImageOptions

    @property
    def inexact(self) -> list[str]:
        """The image options because of which the model's inputs are not exact."""
        return self._image_options.inexact

    def prepare(self, image: ImageSource) -> np.ndarray:
        """Prepare one image as the model's input, `model.dtype` of `model.preprocessing.shape`.

        For a model that takes image files, it is the file's content, `model.dtype` [1] or [length].

        Any thread may call this method.

        Raises:
            ImageError: The image cannot be opened.
        """
        with errors_of(image):
            options = self._image_options
            if options.draft == "model":
                options = replace(options, draft=self.model.preprocessing.resize)
            return tensor_of(image, self.model, options)

    def _requested_classes(self, top: int) -> int:
        """How many classes the server must rank for the first `top` predictions.

        Raises:
            UsageError: `top` is out of range.
        """
        if top < 1:
            raise UsageError(f"`top` must be at least 1, not {top}")
        is_logits = self.model.output_kind is OutputKind.LOGITS  # the softmax needs all classes
        return self.model.classes if is_logits else min(top, self.model.classes)

    def _decoded(self, answer: np.ndarray, batch: np.ndarray, top: int) -> list[Outcome]:
        """The predictions for each image, or an error if its answer cannot be read."""
        expected = (len(batch), self._requested_classes(top))
        if answer.shape != expected:
            raise ContractError(
                f"model {self.model.name!r} answered {list(answer.shape)} where {list(expected)} "
                "images and classes were asked for"
            )
        return [self._decoded_one(entries, min(top, self.model.classes)) for entries in answer]

    def _decoded_one(self, entries: Sequence[bytes], top: int) -> Outcome:
        try:
            return decode(entries, self.model.output_kind, top)
        except ClientError as error:
            return error
        except Exception as error:  # noqa: BLE001  (a bug in reading one answer costs this answer)
            name = type(error).__name__
            wrapped = ImageError(
                f"the model's answer for an image cannot be read: {name}: {reason(error)}"
            )
            wrapped.__cause__ = error
            return wrapped


class Classifier(ImageClassifier):
    """Classifies images with one model of one Triton server. Any thread may use it.

    Use it as a context manager, or call `close`.

    Args:
        url: `host:port` of the server, or of several servers, any of which may answer. None means
            `$TRITON_URL`, or this machine. The scheme `grpc://`, `grpcs://`, `http://` or
            `https://` decides the protocol and TLS.
        model: Name of the model. It may be None if the server serves one model only.
        version: A version of the model. If it is empty, the server chooses.
        follow: If no version is named and the served one is replaced, for example by a promotion,
            whether the new one answers from then on. It must take and answer the same.
        transport_options: How to communicate with the server.
        image_options: How images are opened.
        server_side: `yes` sends image files as they are, to the model `<model>_image`, which
            decodes them. `auto` does so if the server has such a model and a photograph is answered
            faster there.

    Attributes:
        model: What the server says about the model.

    Raises:
        ClientError: No server answers, the server does not serve the model, or the parameters of
            the model do not say how images are prepared.
    """

    def __init__(  # noqa: PLR0913  (one argument for each independent option)
        self,
        url: str | Sequence[str] | None = None,
        model: str | None = None,
        *,
        version: str = "",
        transport_options: TransportOptions = TransportOptions(),
        image_options: ImageOptions = ImageOptions(),
        server_side: ServerSide = "no",
        follow: bool = True,
    ) -> None:
        check_server_side(server_side)
        self._connection = Connection(
            url or default_url(transport_options.protocol), transport_options
        )
        self._image_options = image_options
        self._follows = follow and not version
        try:
            described = self._connection.describe(model or self._only_model(), version)
            self.model = choose(self._connection, described, server_side, image_options)
            check_options(self.model, image_options)
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
        """The most likely classes of one image, most likely first.

        Args:
            image: A path, an http(s) URL, the bytes of an image file, a Pillow image, or a uint8
                array [height, width, 3] in RGB order.
            top: How many predictions to return, at most one for each class.

        Raises:
            ImageError: The image cannot be opened.
            ClientError: The server did not answer, or refused the request.
        """
        tensor = self.prepare(image)
        outcome = self.try_batch(np.ascontiguousarray(tensor[None]), top=top)
        return answer_of(image, tensor, outcome[0])

    def classify_all(
        self, images: Iterable[ImageSource], *, top: int = 5
    ) -> list[list[Prediction]]:
        """Call `classify` for many images, and return the predictions in the order of the images.

        Raises:
            ImageError: One of the images cannot be opened. `stream` would continue with the others.
            ClientError: The server did not answer, or refused a request.
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
    ) -> Generator[Answer, None, None]:
        """Classify any number of images while the iterable produces them.

        Images are decoded, batched and sent at the same time. The memory does not depend on the
        number of images.

        Args:
            images: The images. The iterable may be endless.
            top: How many predictions for each image.
            batch: How many images are in one request. None means a value from the server's config.
            in_flight: How many requests are sent at the same time. None means a value from the
                server's config.
            ordered: Whether answers come in the order of the images, or in the order of completion.

        Yields:
            An answer for each image, with its predictions or its error.

        Raises:
            ServerUnreachable: No server answers any more, after all retries.
            ModelUnavailable: The model is not served any more.
        """
        steps = Steps(self.prepare, lambda inputs: self.try_batch(inputs, top=top))
        return run(steps, images, StreamOptions(top, batch, in_flight, ordered), self.model)

    def classify_batch(self, batch: np.ndarray, *, top: int = 5) -> list[list[Prediction]]:
        """Classify images that `prepare` has prepared.

        Args:
            batch: `model.dtype` [N, *`model.preprocessing.shape`]. N is at most the server's
                maximum batch.
            top: How many predictions for each image.

        Raises:
            AnswerError: The answer for one image is invalid. `try_batch` returns the others.
            ClientError: The server did not answer, or refused the request.
        """
        return all_predictions(self.try_batch(batch, top=top))

    def try_batch(self, batch: np.ndarray, *, top: int = 5) -> list[Outcome]:
        """Do the same as `classify_batch`, but return an error for an answer that cannot be read.

        Raises:
            ClientError: The server did not answer, or refused the request.
        """
        count = self._requested_classes(top)
        try:
            answer = self._answer(batch, count)
        except RequestRejected as error:
            return rejected(error, len(batch))
        return self._decoded(answer, batch, top)

    def infer(self, batch: np.ndarray) -> np.ndarray:
        """Return the output tensor of the model for one request, float32 [N, classes].

        Args:
            batch: `model.dtype` [N, *`model.preprocessing.shape`]. N is at most the server's
                maximum batch.
        """
        return self._answer(batch, 0)

    def _answer(self, batch: np.ndarray, count: int) -> np.ndarray:
        if not self._follows:
            return self._connection.infer_top(self.model, batch, count)
        self.model, answer = self._connection.infer_following(self.model, batch, count)
        return answer

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Return as soon as the server serves the model.

        Args:
            timeout_s: How long to wait, in seconds.

        Raises:
            ClientError: The model is not served within the time. The message has the server's
                reason.
        """
        self._connection.wait_until_ready(self.model.name, timeout_s)

    def _only_model(self) -> str:
        try:
            names = self._connection.ready_models()
        except AccessDenied as error:
            raise list_denied(error) from None
        return only_model(self._connection.url, names)


def rejected(error: RequestRejected, images: int) -> list[Outcome]:
    """What a refused request means for its images, if the server could not open one of them.

    Raises:
        RequestRejected: The request was refused for another reason, or it is not known which of
            several images is at fault.
    """
    found = image_error(error) if images == 1 else None
    if found is None:
        raise error
    return [found]


def answer_of(image: ImageSource, tensor: np.ndarray, outcome: Outcome) -> list[Prediction]:
    """The predictions for one image.

    Raises:
        ClientError: The outcome is an error.
    """
    (answer,) = answers_of([image], [tensor], [outcome])
    if answer.error is not None:
        raise answer.error
    return answer.predictions


def all_predictions(outcomes: Iterable[Outcome]) -> list[list[Prediction]]:
    """The predictions of each image.

    Raises:
        ClientError: One of the outcomes is an error.
    """
    found = []
    for outcome in outcomes:
        if isinstance(outcome, ClientError):
            raise outcome
        found.append(outcome)
    return found


def only_model(url: str, names: Sequence[str]) -> str:
    """The name of the only model that a server serves.

    Models that decode images for another one do not count.

    Raises:
        ModelUnavailable: The server serves no model, or several.
    """
    others = {name + IMAGE_SUFFIX for name in names}
    names = [
        name for name in names if name not in others and not name.startswith(PREPROCESS_PREFIX)
    ]
    if not names:
        raise ModelUnavailable(f"{url} serves no model")
    if len(names) > 1:
        raise ModelUnavailable(f"{url} serves {len(names)} models; choose one: {', '.join(names)}")
    return names[0]


def list_denied(error: AccessDenied) -> AccessDenied:
    """The error if the user named no model and the server does not list its models."""
    return AccessDenied(f"{error}. Without the list of models, one must be named in `model`")
