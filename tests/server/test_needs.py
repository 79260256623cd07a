"""What models need, as their configs say, and which are left out where something is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from seresnext101_triton.server import gpu, needs
from seresnext101_triton.server.errors import InstallationError, NothingToServe
from seresnext101_triton.server.needs import Needs, artifact_models, needs_of, with_needed

STEPS = " ".join(f'step {{ model_name: "{name}" }}' for name in ("image_preprocess_x", "onnx"))
CONFIGS = {
    "gpu": "instance_group { kind: KIND_CPU } instance_group { kind: KIND_GPU }",
    "onnx": 'input { name: "x" data_type: TYPE_STRING } an_option_of_tomorrow: 1',
    "onnx_image": f"ensemble_scheduling {{ {STEPS} }}",
    "openvino": "instance_group { kind: KIND_CPU }",
    "image_preprocess_x": 'input { name: "image" data_type: TYPE_STRING }',
    "image_preprocess_y": 'input { name: "image" data_type: TYPE_UINT8 }',
    "strange": "{",
}


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    for name, config in CONFIGS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(config)
    (tmp_path / "without").mkdir()
    return sorted(tmp_path.iterdir())


def named(folders: list[Path]) -> list[str]:
    return [folder.name for folder in folders]


def test_what_configs_say(folders):
    assert {folder.name: needs_of(folder) for folder in folders} == {
        "gpu": Needs(gpu=True),
        "onnx": Needs(),
        "onnx_image": Needs(models=("image_preprocess_x", "onnx")),
        "openvino": Needs(),
        "image_preprocess_x": Needs(images=True, bytes=True),
        "image_preprocess_y": Needs(images=True),
        "strange": Needs(),
        "without": Needs(),
    }
    assert artifact_models(folders) == ["gpu", "onnx", "openvino", "strange", "without"]


def test_a_model_comes_with_those_that_it_needs(folders):
    assert named(with_needed(folders, ["onnx_image"])) == [
        "image_preprocess_x",
        "onnx",
        "onnx_image",
    ]
    assert named(with_needed(folders, ["openvino"])) == ["openvino"]
    assert named(with_needed(folders, ["image_preprocess_y"])) == ["image_preprocess_y"]
    assert named(with_needed(folders, [])) == sorted(
        CONFIGS.keys() - {"image_preprocess_y"} | {"without"}
    )


def test_models_of_bytes_are_left_out_with_a_line(folders):
    notes: list[str] = []
    kept = needs.without_bytes(folders, ["onnx"], notes.append)
    assert named(kept) == ["gpu", "onnx", "openvino", "strange", "without"]
    (note,) = notes
    assert note.startswith("left out: image_preprocess_x, onnx_image: with numpy 2, ")
    with pytest.raises(
        InstallationError, match="^image_preprocess_x, onnx_image cannot be served: with"
    ):
        needs.without_bytes(folders, ["onnx_image"], notes.append)
    of_bytes = [folder for folder in folders if folder.name == "image_preprocess_x"]
    with pytest.raises(
        InstallationError, match="^image_preprocess_x cannot be served: with numpy 2"
    ):
        needs.without_bytes(of_bytes, [], notes.append)
    others = [folder for folder in folders if folder.name in ("gpu", "openvino")]
    assert needs.without_bytes(others, [], notes.append) == others and len(notes) == 1


def test_models_of_a_gpu_are_left_out_where_there_is_none(folders, monkeypatch):
    notes: list[str] = []
    monkeypatch.setattr(gpu, "find", lambda: None)
    assert "gpu" not in named(needs.without_gpu(folders, [], notes.append))
    assert notes == [
        "left out: gpu: the config asks for a GPU (KIND_GPU), and this machine has none that CUDA "
        "can use"
    ]
    with pytest.raises(NothingToServe, match="^gpu cannot be served: the config asks for a GPU"):
        needs.without_gpu(folders, ["gpu"], notes.append)
    monkeypatch.setattr(gpu, "find", lambda: "a GPU")
    assert needs.without_gpu(folders, ["gpu"], notes.append) == folders and len(notes) == 1


def test_nvidias_own_image_decodes_no_files(folders):
    kept = ["gpu", "onnx", "openvino", "strange", "without"]
    assert named(needs.without_images(folders, ["onnx"])) == kept
    with pytest.raises(
        InstallationError, match="^image_preprocess_x, onnx_image cannot be served by NV"
    ):
        needs.without_images(folders, ["image_preprocess_x", "onnx_image", "onnx"])
