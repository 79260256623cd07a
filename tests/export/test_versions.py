"""Versions forward and back: promote, roll back, prune, verify, and what is listed of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from seresnext101_triton.export import promotion
from seresnext101_triton.export.cli import main
from seresnext101_triton.export.config import from_text
from seresnext101_triton.export.errors import OptionError, VersionError
from seresnext101_triton.export.history import history
from seresnext101_triton.export.operations import promote, prune, roll_back
from seresnext101_triton.export.pipeline import Outcome, export
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.export.serving import Serving
from seresnext101_triton.export.verification import verify
from seresnext101_triton.server.errors import IntegrityError
from tests.conftest import QUIET, TINY, tiny_request

MODEL = "tiny_torchscript"
CLASSES = {1: 1000, 2: 10, 3: 1000}


def publish(root: Path, seed: int, **changes: object) -> Outcome:
    return export(tiny_request(root, weights=f"seeded:{seed}", **changes), QUIET)[0]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions of one model. The second has ten classes and no labels."""
    root = tmp_path_factory.mktemp("versions") / "models"
    for version, classes in CLASSES.items():
        publish(root, version, architecture=replace(TINY, classes=classes))
    return root


@pytest.fixture
def root(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "models"))


def served(root: Path, model: str = MODEL) -> list[int]:
    return promotion.by_policy(root / model)


def classes_of_the_config(root: Path) -> int:
    text = (root / MODEL / "config.pbtxt").read_text()
    return int(from_text(text).output[0].dims[-1])


def test_a_version_comes_back_with_its_config_and_its_labels(root, tree):
    before = tree(root)
    assert roll_back(root, MODEL).version == 2
    assert served(root) == [2] and classes_of_the_config(root) == CLASSES[2]
    assert not (root / MODEL / "labels.txt").exists()
    assert roll_back(root, MODEL).version == 1
    assert served(root) == [1] and classes_of_the_config(root) == CLASSES[1]
    assert (root / MODEL / "labels.txt").exists()
    switch = promote(root, MODEL)
    assert (switch.version, switch.before, switch.pinned) == (3, (1,), False)
    assert tree(root) == before


def test_there_is_no_version_before_the_first(root, tree):
    promote(root, MODEL, to=1)
    before = tree(root)
    with pytest.raises(VersionError, match=r"no version before 1"):
        roll_back(root, MODEL)
    assert tree(root) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: promote(root, MODEL, to=9), r"has no version 9: choose from 1, 2, 3"),
        (lambda root: roll_back(root, MODEL, to=9), r"has no version 9"),
        (lambda root: promote(root, "typo"), r"holds no version of 'typo': choose from tiny_"),
        (lambda root: promote(root, "../models/tiny_torchscript"), r"holds no version of"),
        (lambda root: prune(root, 1, ["typo"]), r"holds no version of 'typo'"),
    ],
)
def test_what_is_not_there_is_named(root, tree, change, message):
    before = tree(root)
    with pytest.raises(VersionError, match=message):
        change(root)
    assert tree(root) == before


def test_a_rollback_does_not_go_forward(root):
    promote(root, MODEL, to=1)
    with pytest.raises(VersionError, match=r"newer than version 1.*promote tiny_.* --to 3"):
        roll_back(root, MODEL, to=3)


def test_ten_comes_after_nine(root):
    for number in (9, 10):
        shutil.copytree(root / MODEL / "3", root / MODEL / str(number))
    assert promote(root, MODEL).version == 10
    assert roll_back(root, MODEL).version == 9
    assert roll_back(root, MODEL).version == 3


def test_a_version_that_was_changed_is_not_served(root, tree):
    artifact = root / MODEL / "1" / "model.pt"
    content = bytearray(artifact.read_bytes())
    content[len(content) // 2] ^= 1
    artifact.write_bytes(content)
    before = tree(root)
    with pytest.raises(IntegrityError, match=r"model\.pt was changed: its sha256"):
        roll_back(root, MODEL, to=1)
    assert tree(root) == before
    artifact.write_bytes(content[:-1])
    with pytest.raises(IntegrityError, match=r"model\.pt has \d+ bytes, and \d+ were published"):
        roll_back(root, MODEL, to=1)


def test_an_export_does_not_undo_a_rollback(root):
    """Neither the same export again, nor one that publishes a new version."""
    roll_back(root, MODEL)
    again = publish(root, 3)
    assert (again.version, again.made, again.served) == (3, False, False)
    assert served(root) == [2] and classes_of_the_config(root) == CLASSES[2]
    newer = publish(root, 4, architecture=replace(TINY, classes=5), labels="none")
    assert (newer.version, newer.made, newer.served) == (4, True, False)
    assert served(root) == [2] and classes_of_the_config(root) == CLASSES[2]
    promote(root, MODEL, to=4)
    assert served(root) == [4] and classes_of_the_config(root) == 5
    assert promote(root, MODEL).pinned is False
    assert publish(root, 5).served


def test_options_that_only_change_the_config_go_to_the_right_version(root):
    roll_back(root, MODEL)
    publish(root, 3, serving=Serving(max_batch=4, instances=3))
    assert from_text((root / MODEL / "config.pbtxt").read_text()).instance_group[0].count == 1
    promote(root, MODEL)
    assert from_text((root / MODEL / "config.pbtxt").read_text()).instance_group[0].count == 3


def test_a_rollback_while_an_export_runs(root):
    """The export has its lock all the time. The rollback needs the other lock, for its moment."""
    repository = Repository(root)
    with repository.exclusive() as publication:
        scratch = publication.scratch()
        (scratch / "model.pt").write_text("new")
        assert roll_back(root, MODEL).version == 2
        assert scratch.is_dir()
        staged = publication.stage(MODEL)
        staged.add_version(repository.next_version(MODEL), scratch)
        publication.publish()
    assert served(root) == [2]
    assert Repository(root).versions(MODEL) == [1, 2, 3, 4]


def test_a_model_of_another_publisher_has_one_config_for_all_versions(root):
    model = root / "foreign"
    for version in ("1", "2"):
        (model / version).mkdir(parents=True)
        (model / version / "model.onnx").write_text("any")
    (model / "config.pbtxt").write_text('platform: "onnxruntime_onnx"')
    switch = roll_back(root, "foreign")
    assert switch.version == 1 and "has no manifest: its files are not checked" in switch.note
    assert served(root, "foreign") == [1]
    assert sorted(path.name for path in (model / "2").iterdir()) == ["model.onnx"]
    (model / "config.pbtxt").write_text("not a config")
    with pytest.raises(VersionError, match="is not a config of Triton"):
        promote(root, "foreign")
    (model / "config.pbtxt").unlink()
    with pytest.raises(VersionError, match=r"has no config\.pbtxt whose policy could be changed"):
        promote(root, "foreign")


def test_a_version_whose_config_was_not_kept(root):
    """A version that an earlier release of this toolkit published has no config of its own."""
    for version in ("1", "2"):
        (root / MODEL / version / "config.pbtxt").unlink()
    with pytest.raises(VersionError, match=r"export version 2 anew"):
        roll_back(root, MODEL)
    assert roll_back(root, MODEL, to=1).version == 1
    assert served(root) == [1] and classes_of_the_config(root) == CLASSES[1]
    assert promote(root, MODEL).version == 3


def test_what_is_served_is_never_pruned(root):
    (pruned,) = prune(root, 1)
    assert (pruned.removed, pruned.kept, pruned.served) == ((1, 2), (3,), (3,))
    assert Repository(root).versions(MODEL) == [3]
    assert [path.name for path in root.parent.iterdir()] == ["models"]


def test_what_the_policy_names_is_never_pruned(root):
    promote(root, MODEL, to=1)
    assert prune(root, 1, dry_run=True)[0].removed == (2,)
    assert Repository(root).versions(MODEL) == [1, 2, 3]
    assert prune(root, 1, [MODEL])[0].kept == (1, 3)
    assert Repository(root).versions(MODEL) == [1, 3]
    with pytest.raises(OptionError, match="`keep` must be at least 1"):
        prune(root, 0)


def test_an_intact_repository(root):
    assert {verdict.state for verdict in verify(root)} == {"intact"}


@pytest.mark.parametrize(
    ("harm", "difference"),
    [
        (lambda folder: (folder / "model.pt").unlink(), "model.pt is missing"),
        (lambda folder: (folder / "model.pt").write_bytes(b""), "model.pt has 0 bytes"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "names no artifacts"),
        (
            lambda folder: promote_config(folder, '"64"', '"63"'),
            "config.pbtxt prepares images in another way",
        ),
    ],
)
def test_a_difference_is_found_and_said(root, capsys, harm, difference):
    harm(root / MODEL / "3")
    assert main(["verify", "--repository", str(root), "--json"]) == 65
    verdicts = json.loads(capsys.readouterr().out)
    assert [verdict["state"] for verdict in verdicts] == ["intact", "intact", "changed"]
    assert any(difference in text for text in verdicts[2]["differences"])


def promote_config(folder: Path, old: str, new: str) -> None:
    path = folder.parent / "config.pbtxt"
    path.write_text(path.read_text().replace(old, new))


def test_a_version_without_a_manifest_is_said(root, capsys):
    (root / MODEL / "1" / "manifest.json").unlink()
    assert main(["verify", "--repository", str(root)]) == 0
    assert "no manifest: its files are not checked" in capsys.readouterr().out


def test_a_model_that_only_calls_others_has_no_artifact(root):
    (root / "ensemble" / "1").mkdir(parents=True)
    (root / "ensemble" / "config.pbtxt").write_text(
        f'ensemble_scheduling {{ step {{ model_name: "{MODEL}" model_version: -1 }} }}'
    )
    assert verify(root, ["ensemble"])[0].state == "no artifact"


def test_the_list_of_versions(root, capsys):
    promote(root, MODEL, to=2)
    (root / MODEL / "1" / "manifest.json").unlink()
    (found,) = history(root)
    assert found.pinned
    assert [(each.number, each.by_policy, each.now) for each in found.versions] == [
        (1, False, False),
        (2, True, False),
        (3, False, False),
    ]
    assert main(["versions", "--repository", str(root), MODEL]) == 0
    printed = capsys.readouterr().out
    assert "no manifest" in printed and "by policy" in printed and "seeded" in printed
    assert main(["versions", "--repository", str(root), "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert [each["by_policy"] for each in document["versions"]] == [False, True, False]


def test_the_commands_print_what_they_did(root, capsys):
    assert main(["rollback", MODEL, "--repository", str(root)]) == 0
    assert "version 2 is served (before: 3)" in capsys.readouterr().out
    assert main(["promote", MODEL, "--to", "1", "--repository", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 1
    assert main(["prune", "--keep", "1", "--repository", str(root)]) == 0
    assert "removed" in capsys.readouterr().out
    assert main(["prune", "--keep", "0", "--repository", str(root)]) == 2
    assert "error: --keep must be at least 1" in capsys.readouterr().err
    assert main(["rollback", MODEL, "--repository", str(root / "none")]) == 73
    assert "is not a folder: name a --repository that exists" in capsys.readouterr().err
