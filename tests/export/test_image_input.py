"""What `--image-input` publishes beside a model, and how a server finds it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2 as pb

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.served import read_served_model
from seresnext101_triton.export import image_input
from seresnext101_triton.export.cli import main
from seresnext101_triton.export.config import from_text, model_config
from seresnext101_triton.export.errors import OptionError, RepositoryError
from seresnext101_triton.export.manifest import Manifest, load
from seresnext101_triton.export.operations import promote, roll_back
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.export.serving import ImageInput, Serving
from seresnext101_triton.server import cli as server_cli
from seresnext101_triton.server import ngc
from seresnext101_triton.server.errors import InstallationError
from seresnext101_triton.server.models import served_models
from seresnext101_triton.server.needs import artifact_models, needs_of, without_bytes
from seresnext101_triton.server.ports import LOCALHOST, Ports
from tests.conftest import QUIET, tiny_request


@pytest.fixture
def facts(exported) -> Manifest:
    return load(next(each.folder for each in exported if each.model == "tiny_onnx"))


def publish(
    root: Path,
    facts: Manifest,
    kind: ImageInput | None = None,
    serving: Serving | None = None,
) -> list[bool]:
    """Publish what belongs to a model, and the folder of the model without its artifact."""
    kind = kind or ImageInput()
    config = model_config(facts, serving or Serving(max_batch=4), labelled=True)
    (root / facts.model / str(facts.version)).mkdir(parents=True, exist_ok=True)
    with Repository(root).exclusive() as publication:
        folders = image_input.folders(facts, config, kind, "a\nb\n")
        made = [folder.publish(publication) for folder in folders]
        publication.publish()
    return made


def read(path: Path) -> pb.ModelConfig:
    return from_text((path / "config.pbtxt").read_text())


def test_the_ensemble_says_all_that_clients_need(facts, tmp_path):
    assert publish(tmp_path, facts) == [True, True]
    config = read(tmp_path / "tiny_onnx_image")
    served = read_served_model("tiny_onnx_image", ["1"], config)
    model = read_served_model("tiny_onnx", ["1"], model_config(facts, Serving(4), labelled=True))
    kept = {"name", "input", "dtype", "platform", "image_input"}
    for name in vars(model).keys() - kept:
        assert getattr(served, name) == getattr(model, name), name
    assert (served.image_input, served.input, served.platform) == ("bytes", "IMAGE", "ensemble")
    assert (tmp_path / "tiny_onnx_image/labels.txt").read_text() == "a\nb\n"
    prepare, network = config.ensemble_scheduling.step
    assert network.model_name == "tiny_onnx"
    assert read(tmp_path / prepare.model_name).instance_group[0].count == 2


def test_equal_contracts_share_the_model_that_decodes(facts, tmp_path):
    assert publish(tmp_path, facts) == [True, True]
    assert publish(tmp_path, facts) == [False, False]
    assert publish(tmp_path, replace(facts, model="other")) == [False, True]
    contract = replace(facts.preprocessing, crop=48)
    different = [
        publish(tmp_path, replace(facts, model="smaller", preprocessing=contract)),
        publish(tmp_path, replace(facts, model="larger"), serving=Serving(max_batch=9)),
        publish(tmp_path, replace(facts, model="raw"), ImageInput("uint8")),
    ]
    assert different == [[True, True]] * 3
    decoders = {path.name for path in tmp_path.glob("image_preprocess_*")}
    assert len(decoders) == 4
    assert set(artifact_models(served_models(tmp_path))) == {
        "tiny_onnx",
        "other",
        "smaller",
        "larger",
        "raw",
    }
    chosen = {folder.name for folder in served_models(tmp_path, ["other_image"])}
    assert {"other_image", "other"} < chosen and len(chosen) == 3
    assert [folder.name for folder in served_models(tmp_path, ["other"])] == ["other"]


def test_a_decoder_that_nothing_needs_any_more_is_not_served(facts, tmp_path):
    publish(tmp_path, facts)
    publish(tmp_path, replace(facts, preprocessing=replace(facts.preprocessing, crop=48)))
    assert len(list(tmp_path.glob("image_preprocess_*"))) == 2
    assert len(served_models(tmp_path)) == 3


def test_a_new_version_takes_the_place_of_the_old_one(facts, tmp_path):
    publish(tmp_path, facts)
    assert publish(tmp_path, replace(facts, version=7)) == [False, True]
    folder = tmp_path / "tiny_onnx_image"
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["7"]
    assert (folder / "7/README.txt").read_text()  # object stores keep no empty folder


def test_it_follows_a_rollback_and_a_promotion(tmp_path):
    """Also to a version whose images are prepared in another way."""
    root = tmp_path / "models"
    first = tiny_request(root, image_input=ImageInput())
    smaller = replace(first, preprocessing=Preprocessing(resize=56, crop=48), image_input=None)
    export(first, QUIET)
    export(smaller, QUIET)
    for change, version, crop in ((None, 2, 48), (roll_back, 1, 64), (promote, 2, 48)):
        if change:
            change(root, "tiny_torchscript")
        folder = root / "tiny_torchscript_image"
        assert [path.name for path in folder.iterdir() if path.is_dir()] == [str(version)]
        config = read(folder)
        assert config.parameters["preprocessing.crop"].string_value == str(crop)
        decoder = read(root / config.ensemble_scheduling.step[0].model_name)
        assert list(decoder.output[0].dims) == [3, crop, crop]
    assert Repository(root).models() == ["tiny_torchscript"]


def test_a_version_that_is_not_served_changes_nothing(tmp_path):
    root = tmp_path / "models"
    request = tiny_request(root, image_input=ImageInput())
    export(request, QUIET)
    promote(root, "tiny_torchscript", 1)
    export(replace(request, force=True), QUIET)
    assert (root / "tiny_torchscript/2").is_dir()
    assert (root / "tiny_torchscript_image/1").is_dir()


def test_how_it_was_published_is_read_back(facts, tmp_path):
    assert image_input.published(tmp_path, "tiny_onnx") is None
    publish(tmp_path, facts, ImageInput("uint8", 3))
    assert image_input.published(tmp_path, "tiny_onnx") == ImageInput("uint8", 3)
    (tmp_path / "tiny_onnx_image/config.pbtxt").write_text('platform: "ensemble"')
    with pytest.raises(RepositoryError, match="is not an ensemble that"):
        image_input.published(tmp_path, "tiny_onnx")


def test_wrong_options_are_refused(capsys, tmp_path):
    for kind, count in (("jpeg", 0), ("bytes", -1), ("bytes", 1025)):
        with pytest.raises(OptionError, match="`image_in"):
            ImageInput(kind, count)
    arguments = ["--weights", "seeded", "--repository", str(tmp_path), "--image-instances", "2"]
    assert main(arguments) == 2
    assert "--image-instances goes with --image-input" in capsys.readouterr().err


def test_a_server_that_cannot_take_bytes_leaves_them_out(facts, tmp_path):
    publish(tmp_path, facts)
    publish(tmp_path, replace(facts, model="raw"), ImageInput("uint8"))
    folders = served_models(tmp_path)
    notes: list[str] = []
    kept = {folder.name for folder in without_bytes(folders, [], notes.append)}
    assert {"tiny_onnx", "raw", "raw_image"} < kept and len(kept) == 4
    assert notes[0].startswith("left out: image_preprocess_")
    with pytest.raises(InstallationError, match="tiny_onnx_image cannot be served: with numpy 2"):
        without_bytes(folders, ["tiny_onnx_image"], notes.append)
    only_files = [
        folder for folder in folders if needs_of(folder).bytes or folder.name == "tiny_onnx_image"
    ]
    with pytest.raises(InstallationError):
        without_bytes(only_files, [], notes.append)


def test_nvidias_image_serves_them_only_with_what_decodes(facts, tmp_path, monkeypatch, capsys):
    publish(tmp_path, facts)
    line = " ".join(ngc.Container(tmp_path, Ports()).command())
    assert "/models/tiny_onnx:ro" in line
    assert "/models/tiny_onnx_image" not in line and "/models/image_preprocess" not in line
    line = " ".join(ngc.Container(tmp_path, Ports(), image="mine").command())
    assert "/models/tiny_onnx_image:ro" in line and "/models/image_preprocess_" in line
    assert " mine tritonserver" in line
    monkeypatch.setattr("shutil.which", lambda program, **_: None)
    arguments = ["--repository", str(tmp_path), "--ngc", "--model", "tiny_onnx_image"]
    assert server_cli.main(arguments) == 69
    assert "server/Dockerfile" in capsys.readouterr().err
    assert LOCALHOST in line


def test_what_decodes_needs_numpy_and_pillow_only():
    """What `server/Dockerfile` installs in NVIDIA's image."""
    program = (
        "import sys, types; sys.modules['triton_python_backend_utils'] = types.ModuleType('stub')\n"
        "for name in ('tritonclient', 'google', 'grpc', 'rich'): sys.modules[name] = None\n"
        "import seresnext101_triton.server.backends.image"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert Preprocessing()  # it is imported there
