"""Classifies uploaded pictures with one or several models, and measures the time of each stage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from seresnext101_triton.client.classifier import Classifier
from seresnext101_triton.client.connection import Connection
from seresnext101_triton.client.counters import ModelCounters
from seresnext101_triton.client.decoding import Prediction
from seresnext101_triton.client.errors import ClientError, ContractError, ServerUnreachable
from seresnext101_triton.client.images import ImageOptions, load_image
from seresnext101_triton.client.text import reason
from seresnext101_triton.client.transport import TransportOptions

_COUNTING_S = 0.2  # Triton has counted a request by then
_THUMBNAIL = 320  # pixels of the longer side


@dataclass(frozen=True)
class Target:
    """Which server the page asks, and how.

    Attributes:
        url: `host:port` of the server, or of several servers with commas between.
        transport: How to communicate with it.
        images: How pictures are opened.
        models: The models that the page offers. If it is empty, the page offers every model of the
            server that this client can use.
    """

    url: str
    transport: TransportOptions = field(default_factory=TransportOptions)
    images: ImageOptions = field(default_factory=ImageOptions)
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reply:
    """What one model said of one picture.

    Attributes:
        model: Name of the model.
        version: The version that answered.
        untrained: Whether the weights are made from a seed, so that the labels mean nothing.
        predictions: Most likely first; empty if there is an error.
        prepare_s: Time to prepare the model's input, in seconds.
        request_s: Time from sending the request to the decoded answer, in seconds.
        queue_s: Part of it in the server's queue; None if the server does not tell.
        compute_s: Part of it in the server's backend; None if the server does not tell.
        requests: Over how many requests the server's two times are averaged. It is above 1 if
            others used the model at the same time.
        error: Why there are no predictions.
    """

    model: str
    version: str = ""
    untrained: bool = False
    predictions: Sequence[Prediction] = ()
    prepare_s: float = 0.0
    request_s: float = 0.0
    queue_s: float | None = None
    compute_s: float | None = None
    requests: int = 0
    error: str = ""


@dataclass(frozen=True)
class Picture:
    """One picture and what the models said of it.

    Attributes:
        path: The file.
        width: Width in pixels, after it was turned as its EXIF orientation says.
        height: Height in pixels.
        thumbnail: A small WebP of it.
        decode_s: Time to read and decode the file, in seconds.
        replies: One reply of each model; empty if there is an error.
        error: Why the picture cannot be opened.
    """

    path: Path
    width: int = 0
    height: int = 0
    thumbnail: bytes = b""
    decode_s: float = 0.0
    replies: Sequence[Reply] = ()
    error: str = ""


def usable_models(target: Target) -> list[str]:
    """The models that the page offers, sorted by name unless the user has named them.

    Raises:
        ClientError: No server answers, or it does not list its models.
    """
    with Connection(target.url, target.transport) as connection:
        if target.models:
            connection.is_ready()  # raises if no server answers
            return list(target.models)
        return [name for name in connection.ready_models() if _is_usable(connection, name)]


def _is_usable(connection: Connection, model: str) -> bool:
    """Whether a model follows the contract. A repository may have others, parts of ensembles."""
    try:
        connection.describe(model)
    except ContractError:
        return False
    return True


def classify_files(
    paths: Sequence[Path], models: Sequence[str], target: Target, top: int = 5
) -> Iterator[Picture]:
    """Classify files with each of the models, one file after the other.

    An error is part of the result. Once no server answers, it is not asked again.

    Args:
        paths: The files.
        models: Names of the models.
        target: The server.
        top: How many predictions of each model.

    Yields:
        The result for each file, in their order.
    """
    with ExitStack() as opened:
        asked = [opened.enter_context(_Model(name, target)) for name in models]
        for path in paths:
            yield _classify_file(path, asked, target, top)


def _classify_file(path: Path, models: Sequence[_Model], target: Target, top: int) -> Picture:
    begin = time.perf_counter()
    try:
        content = path.read_bytes()
        image = load_image(content, target.images, name=path.name)
    except (ClientError, OSError) as error:
        return Picture(path, error=_sentence(error))
    decode_s = time.perf_counter() - begin
    picture = Picture(path, *image.size, _thumbnail(image), decode_s)
    pixels = np.asarray(image)
    return replace(picture, replies=[model.reply(content, pixels, top) for model in models])


def _thumbnail(image: Image.Image) -> bytes:
    small = image.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    content = BytesIO()
    small.save(content, "WEBP", quality=80)
    return content.getvalue()


def _sentence(error: Exception) -> str:
    """The text of an error for the page."""
    return str(error) if isinstance(error, ClientError) else reason(error)


class _Model:
    """One model while files are classified. It is opened at the first picture."""

    def __init__(self, name: str, target: Target) -> None:
        self._name, self._target = name, target
        self._classifier: Classifier | None = None
        self._connection: Connection | None = None
        self._lost = ""

    def __enter__(self) -> _Model:
        return self

    def __exit__(self, *_: object) -> None:
        if self._classifier:
            self._classifier.close()
        if self._connection:
            self._connection.close()

    def reply(self, content: bytes, pixels: np.ndarray, top: int) -> Reply:
        """Classify one picture.

        Args:
            content: The file, for a model that takes image files.
            pixels: The decoded picture, uint8 [height, width, 3], for every other model.
            top: How many predictions.
        """
        if self._lost:
            return Reply(self._name, error=self._lost)
        try:
            classifier = self._open()
            image = content if classifier.model.image_input else pixels
            return self._classify(classifier, image, top)
        except ClientError as error:
            if isinstance(error, ServerUnreachable):
                self._lost = _sentence(error)
            return Reply(self._name, error=_sentence(error))

    def _open(self) -> Classifier:
        if self._classifier is None:
            target = self._target
            self._classifier = Classifier(
                target.url, self._name, transport_options=target.transport
            )
            self._connection = Connection(target.url, target.transport)
        return self._classifier

    def _classify(self, classifier: Classifier, image: bytes | np.ndarray, top: int) -> Reply:
        model = classifier.model
        begin = time.perf_counter()
        batch = np.ascontiguousarray(classifier.prepare(image)[None])
        prepare_s = time.perf_counter() - begin
        before = self._counters(model.version)
        begin = time.perf_counter()
        (predictions,) = classifier.classify_batch(batch, top=top)
        request_s = time.perf_counter() - begin
        reply = Reply(model.name, model.version, model.untrained, predictions, prepare_s, request_s)
        return _with_times(reply, before, self._counters_after(before, model.version))

    def _counters_after(self, before: ModelCounters | None, version: str) -> ModelCounters | None:
        """The counters with the request in them: Triton counts a request after it has answered."""
        deadline = time.monotonic() + _COUNTING_S
        while True:
            after = self._counters(version)
            if before is None or after is None or after.answered > before.answered:
                return after
            if time.monotonic() > deadline:
                return after
            time.sleep(_COUNTING_S / 100)

    def _counters(self, version: str) -> ModelCounters | None:
        """The server's counters; None if it does not tell them, for example without a key."""
        try:
            assert self._connection
            found = self._connection.counters(self._name, version)
        except ClientError:
            return None
        return found[0] if found else None


def _with_times(reply: Reply, before: ModelCounters | None, after: ModelCounters | None) -> Reply:
    """Add the server's times, which are the differences of its counters around the request."""
    if before is None or after is None:
        return reply
    requests = after.answered - before.answered
    if requests < 1:  # another server answered, or the model was loaded again meanwhile
        return reply
    if after.compute_s == before.compute_s:  # the answer came from the response cache
        return reply
    queue_s = (after.queue_s - before.queue_s) / requests
    compute_s = (after.compute_s - before.compute_s) / requests
    return replace(reply, queue_s=queue_s, compute_s=compute_s, requests=requests)
