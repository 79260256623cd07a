"""Classifies the images of a Ray dataset with the models of a Triton server.

    from seresnext101_triton.client.ray import ClassifyImages

    answers = ray.data.read_parquet(...).map_batches(
        ClassifyImages,
        fn_constructor_kwargs={"url": "triton:8001", "model": "seresnext101_onnx"},
        batch_format="pyarrow",
        batch_size=128,
        compute=ray.data.ActorPoolStrategy(size=4),
    )

Each actor takes a CPU of the cluster, and the tasks that read the dataset need one too. This module
needs pyarrow, and not Ray itself.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from seresnext101_triton.client.bulk import BulkOptions, Engine, Patience
from seresnext101_triton.client.classifier import Classifier
from seresnext101_triton.client.errors import (
    ImageError,
    ModelUnavailable,
    ServerUnreachable,
    UsageError,
)
from seresnext101_triton.client.images import ImageSource
from seresnext101_triton.client.pipeline import Answer
from seresnext101_triton.client.records import predictions_type
from seresnext101_triton.client.text import escaped

if TYPE_CHECKING:
    import pyarrow


class StreamEngine(Engine, Protocol):
    """What answers the images of a batch, for example a `Classifier`."""

    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        top: int,
        batch: int | None,
        in_flight: int | None,
        ordered: bool = True,
    ) -> Generator[Answer, None, None]:
        """See `Classifier.stream`."""


class ClassifyImages:
    """A class for Ray's `Dataset.map_batches`, with `batch_format="pyarrow"`.

    Each row gets the columns `model` (string), `version` (string), `predictions` (a list of index,
    label and probability, most likely first), `inexact` (the options because of which the inputs
    are not exact), `error` (string; null if there are predictions) and `refused` (bool: the server
    refused the image, for example because it was overloaded, so that a later run may have an
    answer). The other columns stay, except `column` if it holds the contents of files. An error of
    one image is that of its row.

    Each actor of the pool has one object of this class. It decodes, batches and sends the images of
    a batch at the same time, as `Classifier.stream` does, and waits for a server that is away.

    Args:
        url: As for `Classifier`. Every node of the cluster must reach the server by it.
        model: As for `Classifier`.
        column: The column of the images: paths and URLs (string), or contents of files (binary).
        options: How many predictions, requests at the same time, and so on.
        classifier: The other arguments of `Classifier`.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        model: str | None = None,
        *,
        column: str = "image",
        options: BulkOptions = BulkOptions(patience_s=60.0),
        **classifier: Any,
    ) -> None:
        self._column, self._options = column, options
        self._arguments = {"url": url, "model": model} | classifier
        self._patience = Patience(options.patience_s)
        self._answered = 0
        self._engine: StreamEngine | None = None

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        """The rows of a batch with their answers, in their order.

        Raises:
            UsageError: The batch is no Arrow table, or it has no such column.
            ClientError: The server did not answer in time, or does not serve the model.
        """
        import pyarrow

        if not isinstance(table, pyarrow.Table) or self._column not in table.column_names:
            raise UsageError(
                f"ClassifyImages takes Arrow tables with the column {self._column!r}: give "
                'map_batches batch_format="pyarrow", and ClassifyImages `column`'
            )
        answered = pyarrow.Table.from_pylist(self._rows(self.images(table)), _schema())
        is_name = pyarrow.types.is_string(table.schema.field(self._column).type)
        replaced = {*answered.column_names, *(() if is_name else (self._column,))}
        joined = table.select([name for name in table.column_names if name not in replaced])
        for name in answered.column_names:
            joined = joined.append_column(name, answered[name])
        return joined

    def images(self, table: pyarrow.Table) -> list[ImageSource]:
        """The images of a batch."""
        found: list[ImageSource] = table[self._column].to_pylist()
        return found

    def _rows(self, images: Sequence[ImageSource]) -> list[dict[str, Any]]:
        rows = []
        for answer in self._answers(images):
            engine, error = self._connected(), answer.error
            rows.append(
                {
                    "model": engine.model.name,
                    "version": engine.model.version,
                    "predictions": None if error else [asdict(one) for one in answer.predictions],
                    "inexact": engine.inexact,
                    "error": error and escaped(str(error)),
                    "refused": not isinstance(error, ImageError | None),
                }
            )
        return rows

    def _answers(self, images: Sequence[ImageSource]) -> list[Answer]:
        """An answer for each image, in their order. A server that is away is waited for.

        Raises:
            ServerUnreachable: It did not answer again in time.
            ModelUnavailable: The model was not served again in time.
        """
        answers: list[Answer] = []
        while True:
            try:
                with closing(self._stream(images[len(answers) :])) as stream:
                    for answer in stream:
                        answers.append(answer)
                        self._answered += 1
                return answers
            except (ServerUnreachable, ModelUnavailable):
                if self._patience.is_over(self._answered):
                    raise
                self._patience.wait(self._engine)

    def _stream(self, images: Sequence[ImageSource]) -> Generator[Answer, None, None]:
        options = self._options
        return self._connected().stream(
            images, top=options.top, batch=options.batch, in_flight=options.in_flight
        )

    def _connected(self) -> StreamEngine:
        if self._engine is None:
            self._engine = self.connect(**self._arguments)
        return self._engine

    def connect(self, **arguments: Any) -> StreamEngine:
        """What answers the images. It is made when the first batch comes."""
        return Classifier(**arguments)


def _schema() -> pyarrow.Schema:
    import pyarrow

    return pyarrow.schema(
        [
            ("model", pyarrow.string()),
            ("version", pyarrow.string()),
            ("predictions", predictions_type(pyarrow.float64())),
            ("inexact", pyarrow.list_(pyarrow.string())),
            ("error", pyarrow.string()),
            ("refused", pyarrow.bool_()),
        ]
    )
