"""Accuracy through the server, and where two models differ."""

from __future__ import annotations

import json
import math
import os
import shutil
import threading

import pytest
import scipy.stats

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.cli import main
from seresnext101_triton.client.decoding import Prediction
from seresnext101_triton.client.errors import ClientError
from seresnext101_triton.client.evaluation import (
    Evaluation,
    Share,
    agreement,
    disagreements,
    evaluate,
)
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.client.truth import read_truth


@pytest.fixture(scope="module")
def answers(server):
    """What the small network sees first in each photograph, and second."""
    with Classifier(server.url, "tiny_onnx") as classifier:
        return {path: classifier.classify(path) for path in sample_photographs()}


@pytest.fixture
def labelled(tmp_path, answers):
    """Three photographs in the folder of what is seen first, one in that of what is seen second."""
    for number, (path, predictions) in enumerate(answers.items()):
        folder = tmp_path / "val" / str(predictions[number == 0].index)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    return tmp_path / "val"


def test_accuracy_of_a_served_model(server, labelled):
    with Classifier(server.url, "tiny_onnx") as classifier:
        found = evaluate(classifier, read_truth(labelled, 1000))
    assert (found.accuracy(1), found.accuracy(5)) == (Share(3, 4), Share(4, 4))
    assert not found.failed


def test_the_command_line(server, labelled, capsys):
    (labelled / "3").mkdir(exist_ok=True)
    (labelled / "3" / "bad.jpg").write_bytes(b"nothing")
    arguments = [
        "evaluate",
        str(labelled),
        "--url",
        server.url,
        "--model",
        "tiny_onnx",
        "--model",
        "tiny_torchscript",
    ]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "75.0% (30.1% – 95.4%)" in captured.out
    assert "the same class first: 100.0% (51.0% – 100.0%) of 4 images" in captured.out
    assert captured.err.startswith("error: ") and "bad.jpg is not an image" in captured.err
    assert main([*arguments, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [model["top1"]["value"] for model in document["models"]] == [0.75, 0.75]
    assert document["agreement"]["value"] == 1


def test_a_csv(tmp_path, labelled):
    first, *_, last = sorted(labelled.rglob("*.jpg"))
    path = labelled / "truth.csv"
    path.write_text(
        f"image,class\n{first.relative_to(labelled)},3\n\n{last.relative_to(labelled)}, 7\n"
    )
    assert read_truth(path, 10) == {str(first): 3, str(last): 7}
    with pytest.raises(ClientError, match="names class 7, and the model has the classes 0 to 6"):
        read_truth(path, 7)
    path.write_text("a.jpg,3\nb.jpg,cat\n")
    with pytest.raises(
        ClientError, match="line 2: expected an image and a class index, found 'b.jpg,cat'"
    ):
        read_truth(path, 10)
    with pytest.raises(ClientError, match="cannot be read"):
        read_truth(tmp_path / "nowhere.csv", 10)


def test_folders_of_imagenets_names_count_in_their_order(tmp_path):
    for name in ("n02", "n01", "n10"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.jpg").touch()
    assert {path[-7:-4]: index for path, index in read_truth(tmp_path, 3).items()} == {
        "n01": 0,
        "n02": 1,
        "n10": 2,
    }
    with pytest.raises(ClientError, match="has 3 folders, and the model 1000 classes"):
        read_truth(tmp_path, 1000)


def test_nothing_to_evaluate(tmp_path):
    (tmp_path / "0").mkdir()
    with pytest.raises(ClientError, match="holds no image with a class"):
        read_truth(tmp_path, 10)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 97, 1000, 50_000])
def test_wilsons_interval(count):
    """As scipy has it, near 0 and 1 too."""
    for hits in {0, 1, count // 3, count // 2, count - 1, count}:
        expected = scipy.stats.binomtest(hits, count).proportion_ci(
            confidence_level=0.95, method="wilson"
        )
        share = Share(hits, count)
        assert share.interval == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)
        assert 0 <= share.interval[0] <= share.value <= share.interval[1] <= 1


def test_a_share_of_nothing():
    assert Share(0, 0).interval == (0, 1)
    assert math.isnan(Share(0, 0).value)


def test_the_top_five_are_five():
    images = {
        f"{rank}.jpg": [Prediction(index, "", 0.1) for index in range(8)] for rank in range(8)
    }
    truth = {f"{rank}.jpg": rank for rank in range(8)}
    found = Evaluation("m", "1", truth | {"bad.jpg": 0}, images, {"bad.jpg": "no image"})
    assert [found.accuracy(top) for top in (1, 2, 5, 8)] == [
        Share(1, 8),
        Share(2, 8),
        Share(5, 8),
        Share(8, 8),
    ]


def test_where_two_models_differ():
    def seen(**images: tuple[int, float]) -> Evaluation:
        predictions = {
            name: [Prediction(index, str(index), probability)]
            for name, (index, probability) in images.items()
        }
        return Evaluation("m", "1", {}, predictions, {})

    first, second = (
        seen(a=(1, 0.9), b=(2, 0.5), c=(3, 0.6), d=(4, 1)),
        seen(a=(1, 0.8), b=(3, 0.9), c=(4, 0.7)),
    )
    assert agreement(first, second) == Share(1, 3)
    assert [pair.image for pair in disagreements(first, second, 5)] == ["c", "b"]
    assert [pair.image for pair in disagreements(first, second, 1)] == ["c"]
    assert disagreements(first, second, 0) == []
    # How sure both were, so the less sure of the two; where that is equal, by name.
    assert [pair.weight for pair in disagreements(first, second, 5)] == [0.6, 0.5]
    same = seen(z=(1, 0.5), y=(1, 0.5)), seen(y=(2, 0.5), z=(2, 0.5))
    assert [pair.image for pair in disagreements(*same, 5)] == ["y", "z"]


@pytest.fixture
def evaluating(server, capsys):
    def run(source, *arguments: str) -> tuple[int, str, str]:
        code = main(
            ["evaluate", str(source), "--url", server.url, "--model", "tiny_onnx", *arguments]
        )
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_what_fails_or_is_left_out_is_said(evaluating, labelled):
    """An image that fails has its own error, and the accuracy says how many images it covers.

    A traceback is printed with `--debug` only.
    """
    (labelled / "notes.txt").touch()
    (labelled / "3").mkdir(exist_ok=True)
    (labelled / "3" / "bad.jpg").write_bytes(b"nothing")
    (labelled / "3" / "loop").symlink_to("loop")
    (labelled / "3" / "caf\udce9\x1b.jpg").write_bytes(b"")
    code, out, err = evaluating(labelled)
    assert code == 1
    assert "4 of 7" in out and "75.0% (30.1% – 95.4%)" in out
    assert "left out: 1 file not named like a picture (1 .txt)\n" in err
    assert (
        err.count("error: ") == 3
        and "Too many levels of symbolic links" in err
        and r"caf\udce9\x1b.jpg" in err
    )
    assert "Traceback" not in err and "\x1b" not in err
    _, out, err = evaluating(labelled, "--json", "--debug", "--batch", "1")
    document = json.loads(out)
    assert document["files_left_out"] == 1
    assert set(document["models"][0]["failed"]) == {
        f"{labelled}/3/{name}" for name in ("bad.jpg", "loop", "caf\udce9\x1b.jpg")
    }
    assert "Traceback" in err


def test_a_csv_on_the_command_line(evaluating, labelled, tmp_path):
    images = sorted(labelled.rglob("*.jpg"))
    rows = [f"{image.relative_to(tmp_path)},{image.parent.name}" for image in images]
    source = tmp_path / "truth.csv"
    source.write_text(
        "\ufeffimage,class\r\n"
        + "\r\n".join([*rows, rows[0], "gone.jpg,3", "http://127.0.0.1:1/a.jpg,3"])
    )
    code, out, err = evaluating(source, "--json")
    assert code == 1
    (model,) = json.loads(out)["models"]
    assert (model["images"], set(model["failed"])) == (
        4,
        {f"{tmp_path}/gone.jpg", "http://127.0.0.1:1/a.jpg"},
    )
    assert "left out: 1 lines that repeat an image with the same class" in err
    source.write_text(rows[0] + "\n" + rows[0].rpartition(",")[0] + ",999\n")
    code, out, err = evaluating(source)
    assert (code, out) == (1, "") and "line 2 says class 999" in err and err.count("\n") == 1


def test_a_source_that_can_be_read_once_serves_two_models(evaluating, labelled, tmp_path):
    """As a shell's <(...) gives it."""
    first = next(iter(sorted(labelled.rglob("*.jpg"))))
    os.mkfifo(tmp_path / "truth")
    writer = threading.Thread(
        target=lambda: (tmp_path / "truth").write_text(f"{first},{first.parent.name}\n")
    )
    writer.start()
    code, out, _ = evaluating(tmp_path / "truth", "--model", "tiny_torchscript", "--json")
    writer.join()
    assert code == 0
    assert [model["images"] for model in json.loads(out)["models"]] == [1, 1]
