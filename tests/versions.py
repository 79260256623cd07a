"""Versions of one model, and a caller that knows which version each answer is of."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from seresnext101_triton.client import Connection
from seresnext101_triton.client.served import ServedModel
from seresnext101_triton.export import config, promotion
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.server import runtimes
from seresnext101_triton.server.digest import sha256
from tests.conftest import QUIET, tiny_request

MODEL = "tiny_onnx"
ARTIFACT = "model.onnx"
IMAGE = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)


def versions_of_one_model(root: Path, count: int) -> Path:
    """Publish versions with different weights and the same classes; returns the repository."""
    for seed in range(1, count + 1):
        export(tiny_request(root, weights=f"seeded:{seed}", formats=("onnx",)), QUIET)
    return root


def publish_again(
    root: Path, version: int, *, truncated: bool = False, dims: int = 0, other: bytes = b""
) -> int:
    """Publish a copy of a version as the newest one, as an export does, and return its number.

    Args:
        root: The repository.
        version: The version to copy.
        truncated: Cut the artifact off after its length and sha256 were written down.
        dims: The length of the output in the config, if it is to be wrong.
        other: Another artifact, for which the manifest is written.
    """
    repository = Repository(root)
    source = root / MODEL / str(version)
    with repository.exclusive() as publication:
        built = publication.scratch()
        artifact = other or (source / ARTIFACT).read_bytes()
        (built / ARTIFACT).write_bytes(artifact[:1000] if truncated else artifact)
        facts = json.loads((source / "manifest.json").read_text())
        number = repository.next_version(MODEL)
        (built / "manifest.json").write_text(json.dumps(facts | {"version": number}))
        if other:
            rewrite_manifest(built)
        files = {name: promotion.current(root / MODEL, version, name) for name in _TEXTS}
        texts = {name: content.decode() if content else None for name, content in files.items()}
        if dims:
            wrong = config.from_text(texts["config.pbtxt"] or "")
            wrong.output[0].dims[0] = dims
            texts["config.pbtxt"] = config.to_text(wrong)
        staged = publication.stage(MODEL)
        staged.add_version(number, built)
        promotion.add(staged, number, texts)
        publication.publish()
    return number


def rewrite_manifest(version: Path) -> None:
    """Make the manifest of a version one of the artifact that is there now."""
    artifact, manifest = version / ARTIFACT, version / "manifest.json"
    length = artifact.stat().st_size
    artifacts = [{"file": ARTIFACT, "sha256": sha256(artifact), "bytes": length}]
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"artifacts": artifacts}))


def overflowing(artifact: Path) -> bytes:
    """The same ONNX network, but all that it answers is NaN."""
    return _with_weights(artifact, lambda values: np.full_like(values, np.nan))


def mistaken(artifact: Path) -> bytes:
    """The same ONNX network, but it takes the first of 1000 classes for the last, and so on."""
    return _with_weights(
        artifact,
        lambda values: (
            np.flip(values, values.shape.index(1000)) if 1000 in values.shape else values
        ),
    )


def failing(artifact: Path) -> bytes:
    """The same ONNX network, but it fails for images whose largest value is 2000."""
    model = onnx.load(artifact)
    (image,), (output,) = model.graph.input, model.graph.output
    last = next(node for node in model.graph.node if output.name in node.output)
    last.output[list(last.output).index(output.name)] = "answer"
    for name, value in (
        ("wrong", np.float32(2000)),
        ("same shape", np.array([0, -1])),
        ("impossible", np.array([7, 0])),  # 1000 classes do not have seven rows
    ):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    make = onnx.helper.make_node
    model.graph.node.extend(
        [
            make("ReduceMax", [image.name], ["largest"], keepdims=0),
            make("Equal", ["largest", "wrong"], ["is wrong"]),
            make("Cast", ["is wrong"], ["count"], to=onnx.TensorProto.INT64),
            make("Mul", ["count", "impossible"], ["more"]),
            make("Add", ["same shape", "more"], ["shape"]),
            make("Reshape", ["answer", "shape"], [output.name]),
        ]
    )
    return bytes(model.SerializeToString())


def _with_weights(artifact: Path, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    model = onnx.load(artifact)
    for each in model.graph.initializer:
        if each.data_type == onnx.TensorProto.FLOAT:
            values = change(onnx.numpy_helper.to_array(each))
            each.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), each.name))
    return bytes(model.SerializeToString())


_TEXTS = ("config.pbtxt", "labels.txt")


def answer_of(root: Path, version: int) -> np.ndarray:
    """The answer of a version's artifact, without a server."""
    artifact = root / MODEL / str(version) / ARTIFACT
    return runtimes.load("onnxruntime", artifact, {}).run(IMAGE)


class Caller:
    """Sends the same image again and again, and keeps which version each answer is of.

    Args:
        url: The server.
        answers: The answer of each version. Versions with the same answer are one here.
        pause_s: The time between an answer and the next request, in seconds.

    Attributes:
        seen: The version of each answer; 0 if it is that of none.
        errors: The message of each request that failed.
    """

    def __init__(self, url: str, answers: Mapping[int, np.ndarray], pause_s: float = 0.0) -> None:
        self.seen: list[int] = []
        self.errors: list[str] = []
        self._url, self._answers, self._pause_s = url, answers, pause_s
        self._end = threading.Event()

    def ask(self, connection: Connection, model: ServedModel) -> int:
        """The version whose answer came; 0 if it is that of none."""
        found = connection.infer(model, IMAGE)
        matching = [
            version
            for version, answer in self._answers.items()
            if np.allclose(found, answer, rtol=1e-3, atol=1e-6)
        ]
        return matching[0] if len(matching) == 1 else 0

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Send requests from a thread meanwhile."""
        thread = threading.Thread(target=self._call)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()

    def _call(self) -> None:
        with Connection(self._url) as connection:
            model = replace(connection.describe(MODEL), version="")
            while not self._end.wait(self._pause_s):
                try:
                    self.seen.append(self.ask(connection, model))
                except Exception as error:
                    self.errors.append(str(error))
