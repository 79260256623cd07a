"""One export from end to end, and everything that may stop it on the way."""

from __future__ import annotations

import json
import platform
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from seresnext101_triton.client.contract import OutputKind
from seresnext101_triton.client.images import load_image, sample_photographs
from seresnext101_triton.export import pipeline
from seresnext101_triton.export.config import from_text
from seresnext101_triton.export.errors import (
    CheckpointError,
    MissingHardware,
    OptionError,
    ParityError,
    RepositoryError,
)
from seresnext101_triton.export.formats import DEFAULT_FORMATS, FORMATS
from seresnext101_triton.export.formats.torchscript import TorchScript
from seresnext101_triton.export.job import Weights
from seresnext101_triton.export.keys import key_of, sources_of
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.precision import FP16, FP32, INT8
from seresnext101_triton.export.reporting import Reporter
from seresnext101_triton.export.serving import ImageInput, Serving
from seresnext101_triton.export.weights import resolve
from seresnext101_triton.export.weights.seeded import seeded_network
from seresnext101_triton.server import TRITON_RELEASE, runtimes
from seresnext101_triton.server.digest import sha256
from tests.conftest import PREPROCESSING, QUIET, TINY, tiny_request
from tests.export.test_checkpoint import LAYOUTS
from tests.export.test_repository import mounted


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository" / "models"


def config_of(root: Path, model: str = "tiny_torchscript"):
    return from_text((root / model / "config.pbtxt").read_text())


def test_what_is_published(exported, repository):
    for outcome in exported:
        facts = json.loads((outcome.folder / "manifest.json").read_text())
        artifacts = [outcome.folder / artifact["file"] for artifact in facts["artifacts"]]
        assert sorted(path.name for path in outcome.folder.iterdir()) == sorted(
            [*(path.name for path in artifacts), "manifest.json"]
        )
        assert sorted(path.name for path in outcome.folder.parent.iterdir()) == [
            "1",
            "config.pbtxt",
            "labels.txt",
        ]
        assert facts["artifacts"] == [
            {"file": path.name, "sha256": sha256(path), "bytes": path.stat().st_size}
            for path in artifacts
        ]
        assert (facts["model"], facts["version"], facts["schema"]) == (outcome.model, 1, 2)
        assert facts["weights"]["kind"] == "seeded" and facts["weights"]["trained"] is False
        assert facts["tools"]["torch"] == torch.__version__
        assert facts["tensors"]["input"] == {"name": "INPUT__0", "dims": [3, 64, 64]}
        assert facts["parity"]["relative_error"] <= facts["parity"]["bound"] == 1e-5
        assert facts["parity"]["top5"] == 1
        assert (
            facts["output"]
            == config_of(repository, outcome.model).parameters["output.kind"].string_value
        )


def test_all_that_a_manifest_says(exported):
    """What each tool is called, and nothing that was not measured."""
    for outcome in exported:
        facts = outcome.manifest
        format = FORMATS[facts.format]
        assert outcome.model.startswith(("tiny_", "logits_")) and outcome.served and outcome.made
        assert facts.tools == {
            "python": platform.python_version(),
            **{
                name: version(name) for name in ("numpy", "pillow", "onnxruntime", *format.packages)
            },
        }
        assert facts.architecture == asdict(replace(TINY, classes=facts.classes))
        assert (facts.preprocessing, facts.triton) == (PREPROCESSING, TRITON_RELEASE)
        assert facts.precision == "fp32"
        assert facts.tensors["output"] == {"name": "OUTPUT__0", "dims": [facts.classes]}
        assert facts.ranges is facts.quantization is facts.speed is None
        created = datetime.fromisoformat(facts.created)
        assert created.utcoffset() == timedelta(0) and not created.microsecond
        assert abs(datetime.now(UTC) - created) < timedelta(hours=6)
        assert re.fullmatch("[0-9a-f]{64}", facts.key)
        assert outcome.artifact == outcome.folder / format.filename
        assert outcome.to_json() == {
            "model": outcome.model,
            "version": 1,
            "folder": str(outcome.folder),
            "made": True,
            "served": True,
            "manifest": asdict(facts),
        }


def test_what_decides_whether_an_artifact_is_made_again(root):
    """Two exports have equal keys exactly if they make equal artifacts."""

    def key(identity: str = "weights", **changes: object) -> str:
        request = tiny_request(root, **{"formats": ("openvino",)} | changes)
        (variant,) = request.variants
        return key_of(request, Weights(resolve("seeded"), identity, None), variant)

    first = key()
    for same in (
        {"serving": Serving(max_batch=4, instances=3)},
        {"name": "other", "labels": "none", "force": True, "image_input": ImageInput()},
    ):
        assert key(**same) == first
    others = [
        key("other weights"),
        *(
            key(**change)
            for change in (
                {"formats": ("onnx",)},
                {"precision": "bf16"},
                {"output": OutputKind.LOGITS},
                {"architecture": replace(TINY, squeeze_width=8)},
                {"preprocessing": replace(PREPROCESSING, resize=73)},
                {"serving": Serving(max_batch=5)},
                {"target": "26.06"},
                {"allow_error": 1e-3},
            )
        ),
    ]
    assert len({first, *others}) == 1 + len(others)
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in (first, *others))


def test_the_code_that_decides_what_an_artifact_is():
    base = "seresnext101_triton.export."
    network = {f"{base}network", f"{base}served"}
    onnx = {*network, f"{base}onnx"}
    for name, precision, modules in (
        ("torchscript", FP32, {*network, f"{base}formats.torchscript"}),
        ("onnx", FP32, {*onnx, f"{base}formats.onnx"}),
        ("onnx", INT8, {*onnx, f"{base}formats.onnx", f"{base}quantization"}),
        ("onnx_trt", FP32, {*onnx, f"{base}formats.onnx", f"{base}formats.onnx_trt"}),
        ("tensorrt_rtx", FP16, {*onnx, f"{base}formats.tensorrt_rtx", f"{base}tensorrt"}),
    ):
        assert sources_of(FORMATS[name], precision) == modules, name


def test_what_this_machine_lacks_is_told_before_anything_is_done(root, monkeypatch):
    monkeypatch.setattr(TorchScript, "missing", lambda self: "a compiler")
    request = tiny_request(root, weights="none", formats=("onnx", "torchscript"))
    assert pipeline.lacking(request) == {"torchscript": "a compiler"}
    message = "^torchscript is made and proven on .* serves it, and this one lacks a compiler$"
    with pytest.raises(MissingHardware, match=message):
        export(request, QUIET)


def test_nothing_is_exported_twice(root):
    (first,) = export(tiny_request(root), QUIET)
    stamp = (first.folder / "model.pt").stat().st_mtime_ns
    (second,) = export(tiny_request(root), QUIET)
    assert (first.made, second.made, second.version) == (True, False, 1)
    assert (second.folder / "model.pt").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "seeded:1"},
        {"output": OutputKind.LOGITS},
        {"preprocessing": replace(PREPROCESSING, crop=63)},
        {"serving": Serving(max_batch=2)},
        {"architecture": replace(TINY, classes=7)},
        {"force": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_artifact_makes_a_new_version(root, change):
    export(tiny_request(root), QUIET)
    (outcome,) = export(tiny_request(root, **change), QUIET)
    assert (outcome.made, outcome.version) == (True, 2)
    assert sorted(path.name for path in outcome.folder.parent.iterdir() if path.name.isdigit()) == [
        "1",
        "2",
    ]


def test_what_changes_only_the_config_makes_none(root, tmp_path):
    export(tiny_request(root), QUIET)
    names = tmp_path / "names"
    names.write_text("".join(f"thing {n}\n" for n in range(1000)))
    (outcome,) = export(
        tiny_request(root, serving=Serving(max_batch=4, instances=3, threads=1), labels=str(names)),
        QUIET,
    )
    assert (outcome.made, outcome.version) == (False, 1)
    config = config_of(root)
    assert config.instance_group[0].count == 3
    assert config.parameters["INTRA_OP_THREAD_COUNT"].string_value == "1"
    assert (root / "tiny_torchscript" / "labels.txt").read_text() == names.read_text()


def test_a_damaged_artifact_is_made_again(root, capsys):
    (first,) = export(tiny_request(root, image_input=ImageInput()), Reporter())
    published = f"published: {root}/tiny_torchscript_image, which takes image files"
    assert published in capsys.readouterr().err
    (first.folder / "model.pt").write_bytes(b"damaged")
    (second,) = export(tiny_request(root), Reporter())
    assert (second.made, second.version) == (True, 2)
    said = capsys.readouterr().err
    assert f"{first.folder}: the artifact is not the one that was published: it is exp" in said
    (second.folder / "manifest.json").write_text("{")
    (third,) = export(tiny_request(root), Reporter())
    assert (third.made, third.version) == (True, 3)
    said = capsys.readouterr().err
    assert f"{second.folder}/manifest.json is damaged: " in said
    assert "the model is exported anew" in said and "  exporting torchscript (" in said


@pytest.mark.parametrize("layout", ["nvidia", "bare"])
def test_a_checkpoint_in_nvidias_layout_gives_the_networks_own_logits(root, tmp_path, layout):
    network = seeded_network(replace(TINY, classes=12), 9)
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(LAYOUTS[layout](network.state_dict()), path)
    request = tiny_request(
        root, weights=str(path), formats=("torchscript", "onnx"), output=OutputKind.LOGITS
    )
    images = np.stack(
        [PREPROCESSING(load_image(photograph)) for photograph in sample_photographs()]
    )
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    for outcome in export(request, QUIET):
        runtime = runtimes.load(FORMATS[outcome.manifest.format].runtime, outcome.artifact, {})
        assert np.abs(runtime.run(images) - expected).max() / np.abs(expected).max() < 1e-5
        assert outcome.manifest.weights.sha256 == sha256(path)
        assert outcome.manifest.classes == 12
        config = config_of(root, outcome.model)
        assert list(config.output[0].dims) == [12]
        assert not config.output[0].label_filename  # twelve classes without names
        assert "weights" not in config.parameters


def test_an_artifact_that_fails_the_gate_is_not_published(root, tree, monkeypatch):
    export(tiny_request(root), QUIET)
    before = tree(root)
    honest = TorchScript.export

    def wrong(self, material, folder, reporter):
        material.network.network.fc.bias[0] += 1
        honest(self, material, folder, reporter)

    monkeypatch.setattr(TorchScript, "export", wrong)
    with pytest.raises(
        ParityError, match="torchscript does not answer as the network it was made from"
    ):
        export(tiny_request(root, force=True), QUIET)
    assert tree(root) == before
    assert [path.name for path in root.parent.iterdir()] == ["models"]


def test_all_formats_are_published_or_none(root, monkeypatch):
    from seresnext101_triton.export.formats.onnx import Onnx

    def fail(*_):
        raise RuntimeError("the exporter failed")

    monkeypatch.setattr(Onnx, "export", fail)
    with pytest.raises(RuntimeError):
        export(tiny_request(root, formats=("torchscript", "onnx")), QUIET)
    assert not root.exists()


def test_a_checkpoint_that_does_not_fit_writes_nothing(root, tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(3, 4)}, path)
    with pytest.raises(CheckpointError):
        export(tiny_request(root, weights=str(path)), QUIET)
    assert not root.exists()


def test_labels_that_do_not_fit_write_nothing(root, tmp_path):
    (tmp_path / "two").write_text("a\nb\n")
    with pytest.raises(OptionError, match="names 2 classes, but the network has 1000"):
        export(tiny_request(root, labels=str(tmp_path / "two")), QUIET)
    assert not root.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"formats": ("tflite",)}, "unknown format tflite: choose from torchscript, pt2, onnx"),
        ({"formats": ()}, "no format"),
        ({"name": "../up"}, "letters, digits"),
    ],
)
def test_requests_that_cannot_be(root, change, message):
    with pytest.raises(OptionError, match=message):
        tiny_request(root, **change)


@pytest.mark.parametrize("kibibytes", [1200, 1500, 2300])
def test_a_full_disk(tmp_path, tree, kibibytes):
    """The small network's artifact takes 1 MB.

    It does not fit at 1200 KiB; at 1500 KiB it fits, but not the files that are written with it.
    """
    disk = tmp_path / "disk"
    with mounted(disk, f"size={kibibytes}k"):
        root = disk / "models"
        (disk / "ballast").write_bytes(b"x" * 900 * 1024)
        root.mkdir()
        (root / "mine").touch()
        before = tree(root)
        if kibibytes == 2300:
            export(tiny_request(root), QUIET)
            assert (root / "tiny_torchscript" / "1" / "model.pt").exists()
            return
        with pytest.raises(RepositoryError, match="make room"):
            export(tiny_request(root), QUIET)
        assert tree(root) == before
        assert sorted(path.name for path in disk.iterdir()) == ["ballast", "models"]


def test_a_disk_that_fills_up_while_the_artifact_is_written(tmp_path, tree, monkeypatch):
    monkeypatch.setattr("seresnext101_triton.export.pipeline._ROOM_PER_ARTIFACT", 0.0)
    for format in DEFAULT_FORMATS:
        disk = tmp_path / format
        with mounted(disk, "size=512k"):
            with pytest.raises(RepositoryError, match="the disk is full: make room"):
                export(tiny_request(disk / "models", formats=(format,)), QUIET)
            assert list(disk.iterdir()) == []


def test_kill_9_in_the_middle_leaves_the_repository_as_it_was(root, tree):
    export(tiny_request(root), QUIET)
    before = tree(root)
    command = [
        *(
            sys.executable,
            "-m",
            "export",
            "--weights",
            "seeded:1",
            "--architecture",
            "se-resnext-tiny",
            "--crop",
            "64",
            "--max-batch",
            "4",
        ),
        *("--name", "tiny", "--repository", str(root), "--quiet"),
    ]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 600
    # Until one of the two artifacts is written.
    while not list(root.parent.glob(".models.staging-*/.scratch-*/model.pt")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert tree(root) == before
    assert list(root.parent.glob(".models.staging-*"))

    (outcome,) = export(
        tiny_request(root, weights="seeded:1", preprocessing=replace(PREPROCESSING, resize=96)),
        QUIET,
    )
    assert (outcome.made, outcome.version) == (True, 2)
    assert [path.name for path in root.parent.iterdir()] == ["models"]


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_clears_up_after_itself(root, signal_):
    command = [
        *(
            sys.executable,
            "-m",
            "export",
            "--weights",
            "seeded",
            "--architecture",
            "se-resnext-tiny",
            "--crop",
            "64",
        ),
        *("--repository", str(root), "--quiet"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while not list(root.parent.glob(".models.staging-*/.scratch-*/model.pt")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal_)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not root.parent.exists()
