"""Classifies images with a published model in this process, without a server.

    from seresnext101_triton.server.inprocess import LocalClassifier

    classifier = LocalClassifier("model_repository", "seresnext101_openvino_int8")
    for answer in classifier.stream(paths):
        ...

The answers are those that a server gives. `ClassifyLocally` does the same in the actors of a Ray
dataset. This is for one machine's own work in bulk: only a server makes batches of the images of
many callers, and tells its metrics.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from seresnext101_triton.client.bulk import BulkOptions
from seresnext101_triton.client.classifier import ImageClassifier
from seresnext101_triton.client.images import ImageOptions, ImageSource
from seresnext101_triton.client.pipeline import Answer, Outcome, Steps, StreamOptions, run
from seresnext101_triton.client.ray import ClassifyImages
from seresnext101_triton.client.served import read_served_model
from seresnext101_triton.client.server_decoding import check_options
from seresnext101_triton.server import runtimes
from seresnext101_triton.server.errors import IntegrityError, NothingToServe
from seresnext101_triton.server.integrity import MANIFEST_FILENAME, differences
from seresnext101_triton.server.models import versions_to_serve
from seresnext101_triton.server.versions import LABELS_FILENAME, config_folder, read_config

# By the name of the format in a manifest. All others need a GPU.
_RUNTIMES = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "pt2": "pt2",
    "torchscript": "torchscript",
}


class LocalClassifier(ImageClassifier):
    """Classifies images with the served version of a model of a repository. Any thread may use it.

    Args:
        repository: The folder of the repository.
        model: The name of the model.
        image_options: How images are opened.

    Attributes:
        model: How the model is used.

    Raises:
        NothingToServe: The repository has no such model, or no version of it that runs on a CPU.
        IntegrityError: The files of the version are not those that were published.
        ContractError: The config does not say how images are prepared.
        ArtifactError: The artifact cannot be loaded.
        InstallationError: A package of its runtime is not installed.
    """

    def __init__(
        self, repository: Path | str, model: str, *, image_options: ImageOptions = ImageOptions()
    ) -> None:
        folder = Path(repository, model)
        versions = versions_to_serve(folder) if folder.is_dir() else []
        if not versions:
            raise NothingToServe(f"{repository} holds no model {model} with a version to serve")
        place = folder / str(versions[-1])
        if problems := differences(place):
            raise IntegrityError(f"{place}: {'; '.join(problems)}: export it anew")
        config = read_config(config_folder(folder, versions[-1]))
        runtime, artifact = _runtime_of(place)
        self._image_options = image_options
        self.model = read_served_model(model, [str(versions[-1])], config)
        check_options(self.model, image_options)
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        self._runtime = runtimes.load(runtime, artifact, parameters)
        self._labels = _labels_of(folder)

    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        top: int = 5,
        batch: int | None = None,
        in_flight: int | None = 1,
        ordered: bool = True,
    ) -> Generator[Answer, None, None]:
        """See `Classifier.stream`. `in_flight` batches are computed at the same time."""
        steps = Steps(self.prepare, lambda inputs: self.try_batch(inputs, top=top))
        return run(steps, images, StreamOptions(top, batch, in_flight, ordered), self.model)

    def try_batch(self, batch: np.ndarray, *, top: int = 5) -> list[Outcome]:
        """See `Classifier.try_batch`."""
        count = self._requested_classes(top)
        output = self._runtime.run(batch)
        order = np.argsort(-output, axis=1, kind="stable")[:, :count]
        entries = [
            [self._entry(value, index) for value, index in zip(row[best], best, strict=True)]
            for row, best in zip(output, order, strict=True)
        ]
        return self._decoded(np.array(entries, dtype=object), batch, top)

    def wait_until_ready(self, timeout_s: float = 0.0) -> None:
        """Return at once. A server may have to be waited for."""

    def _entry(self, value: float, index: int) -> bytes:
        """A class as Triton's classification extension writes it."""
        label = b":" + self._labels[index] if index < len(self._labels) else b""
        return f"{value:f}:{index}".encode() + label


class ClassifyLocally(ClassifyImages):
    """A class for Ray's `Dataset.map_batches`, as `ClassifyImages` is, without a server.

    Each actor of the pool loads the model. Give it the cores that the model takes (`num_cpus`).

    Args:
        repository: The folder of the repository. Every node of the cluster must have it.
        model: The name of the model.
        column: As for `ClassifyImages`.
        options: As for `ClassifyImages`.
        classifier: The other arguments of `LocalClassifier`.
    """

    def __init__(
        self,
        repository: str,
        model: str,
        *,
        column: str = "image",
        options: BulkOptions = BulkOptions(patience_s=0.0, in_flight=1),
        **classifier: Any,
    ) -> None:
        super().__init__(None, model, column=column, options=options, **classifier)
        self._arguments = {"repository": repository, "model": model} | classifier

    def connect(self, **arguments: Any) -> LocalClassifier:
        """The model, loaded in this process."""
        return LocalClassifier(**arguments)


def _runtime_of(folder: Path) -> tuple[str, Path]:
    """The runtime and the artifact of a version.

    Raises:
        NothingToServe: The version has no manifest, or its format needs a GPU.
    """
    path = folder / MANIFEST_FILENAME
    if not path.is_file():
        raise NothingToServe(f"{folder} has no {MANIFEST_FILENAME}: only exported models run here")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest["format"] not in _RUNTIMES:
        raise NothingToServe(
            f"{folder} is of the format {manifest['format']}, and only {', '.join(_RUNTIMES)} run "
            "without a server"
        )
    return _RUNTIMES[manifest["format"]], folder / manifest["artifacts"][0]["file"]


def _labels_of(folder: Path) -> list[bytes]:
    """The labels of a model, by index. Empty if it has none."""
    path = folder / LABELS_FILENAME
    return path.read_bytes().splitlines() if path.is_file() else []
