"""Accuracy through the server, and where two models differ."""

from __future__ import annotations

import json
import shutil

import pytest

from client import Classifier
from client.cli import main
from client.decoding import Prediction
from client.errors import ClientError
from client.evaluation import Evaluation, Share, agreement, disagreements, evaluate, read_truth
from client.images import sample_photographs


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
    arguments = ["evaluate", str(labelled), "--url", server.url, "--model", "tiny_onnx", "--model", "tiny_torchscript"]
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
    path.write_text(f"image,class\n{first.relative_to(labelled)},3\n\n{last.relative_to(labelled)}, 7\n")
    assert read_truth(path, 10) == {str(first): 3, str(last): 7}
    with pytest.raises(ClientError, match="names class 7, and the model has the classes 0 to 6"):
        read_truth(path, 7)
    path.write_text("a.jpg,3\nb.jpg,cat\n")
    with pytest.raises(ClientError, match="line 2: expected an image and a class index, found 'b.jpg,cat'"):
        read_truth(path, 10)
    with pytest.raises(ClientError, match="cannot be read"):
        read_truth(tmp_path / "nowhere.csv", 10)


def test_folders_of_imagenets_names_count_in_their_order(tmp_path):
    for name in ("n02", "n01", "n10"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.jpg").touch()
    assert {path[-7:-4]: index for path, index in read_truth(tmp_path, 3).items()} == {"n01": 0, "n02": 1, "n10": 2}
    with pytest.raises(ClientError, match="has 3 folders, and the model 1000 classes"):
        read_truth(tmp_path, 1000)


def test_nothing_to_evaluate(tmp_path):
    (tmp_path / "0").mkdir()
    with pytest.raises(ClientError, match="holds no image with a class"):
        read_truth(tmp_path, 10)


def test_wilsons_interval():
    """Figures of the formula in Wilson (1927), as statsmodels' proportion_confint gives them."""
    assert Share(50, 100).interval == pytest.approx((0.40383, 0.59617), abs=1e-5)
    assert Share(0, 10).interval == pytest.approx((0, 0.27753), abs=1e-5)
    assert Share(0, 0).interval == (0, 1)


def test_where_two_models_differ():
    def seen(**images: tuple[int, float]) -> Evaluation:
        predictions = {name: [Prediction(index, str(index), probability)] for name, (index, probability) in images.items()}
        return Evaluation("m", "1", {}, predictions, {})

    first, second = seen(a=(1, 0.9), b=(2, 0.5), c=(3, 0.6), d=(4, 1)), seen(a=(1, 0.8), b=(3, 0.9), c=(4, 0.7))
    assert agreement(first, second) == Share(1, 3)
    assert [pair.image for pair in disagreements(first, second, 5)] == ["c", "b"]
    assert len(disagreements(first, second, 1)) == 1
