"""A model in this process answers as it does behind a server."""

from __future__ import annotations

import shutil

import pyarrow
import pytest

from seresnext101_triton.client import Classifier, ImageOptions
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.server.errors import IntegrityError, NothingToServe
from seresnext101_triton.server.inprocess import ClassifyLocally, LocalClassifier

PHOTOGRAPHS = sample_photographs()


@pytest.mark.parametrize(
    "model", ["tiny_torchscript", "tiny_onnx", "tiny_openvino", "logits_torchscript"]
)
def test_the_answers_are_those_of_the_server(server, repository, model):
    local = LocalClassifier(repository, model)
    with Classifier(server.url, model) as served:
        assert local.model == served.model
        expected = [served.classify(path, top=3) for path in PHOTOGRAPHS]
    found = [answer.predictions for answer in local.stream(PHOTOGRAPHS, top=3)]
    for here, there in zip(found, expected, strict=True):
        assert [(each.index, each.label) for each in here] == [
            (each.index, each.label) for each in there
        ]
        assert [each.probability for each in here] == pytest.approx(
            [each.probability for each in there], abs=2e-5
        )


def test_an_image_that_cannot_be_read_stops_no_other(repository, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    local = LocalClassifier(repository, "tiny_onnx", image_options=ImageOptions(draft=300))
    answers = list(local.stream([str(broken), PHOTOGRAPHS[0]], batch=2, top=1))
    assert "broken.jpg" in str(answers[0].error) and len(answers[1].predictions) == 1
    assert local.inexact == ["draft"]
    local.wait_until_ready()


def test_a_dataset_of_ray(repository):
    classify = ClassifyLocally(str(repository), "tiny_onnx")
    contents = [path.read_bytes() for path in PHOTOGRAPHS]
    rows = classify(pyarrow.table({"image": pyarrow.array(contents, pyarrow.binary())})).to_pylist()
    assert [(row["model"], row["error"], row["refused"]) for row in rows] == [
        ("tiny_onnx", None, False)
    ] * len(contents)
    assert [len(row["predictions"]) for row in rows] == [5] * len(contents)
    paths = classify(pyarrow.table({"image": [str(path) for path in PHOTOGRAPHS]})).to_pylist()
    assert [row["predictions"] for row in paths] == [row["predictions"] for row in rows]


def test_what_cannot_answer_here(repository, tmp_path):
    with pytest.raises(NothingToServe, match="holds no model none with a version to serve"):
        LocalClassifier(repository, "none")
    own = shutil.copytree(repository / "tiny_onnx", tmp_path / "m" / "tiny_onnx")
    manifest = own / "1" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"format": "onnx"', '"format": "tensorrt"'))
    with pytest.raises(NothingToServe, match="of the format tensorrt, and only onnx, openvino, "):
        LocalClassifier(own.parent, "tiny_onnx")
    manifest.unlink()
    with pytest.raises(NothingToServe, match="has no manifest.json: only exported models run"):
        LocalClassifier(own.parent, "tiny_onnx")
    manifest.write_text(text)
    (own / "1" / "model.onnx").write_bytes(b"another")
    with pytest.raises(IntegrityError, match="model.onnx has 7 bytes, and .* export it anew"):
        LocalClassifier(own.parent, "tiny_onnx")
