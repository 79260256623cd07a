"""Which models and versions of a repository are served, and which files are the published ones."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from seresnext101_triton.server.errors import IntegrityError, NothingToServe
from seresnext101_triton.server.integrity import differences
from seresnext101_triton.server.models import (
    ServedFolder,
    check_artifacts,
    chosen_models,
    intact_models,
    model_and_version,
    servable,
    served_models,
    versions_to_serve,
)

ENSEMBLE = 'ensemble_scheduling { step { model_name: "a" } }'
CONTENT = b"artifact"
ARTIFACT = {"file": "model.pt", "bytes": 8, "sha256": hashlib.sha256(CONTENT).hexdigest()}


@pytest.fixture
def models(tmp_path) -> Path:
    """A repository: `a` with versions 2, 9 and 10, `b` with 1, an ensemble, and what is none."""
    for name in ("a/2", "a/9", "a/10", "a/011", "a/0", "a/x", "b/1", "over_a/1"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("empty", ".hidden/1", "a/configs"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "a/11").touch()
    (tmp_path / "over_a/config.pbtxt").write_text(ENSEMBLE)
    return tmp_path


def published(folder: Path, content: bytes = CONTENT, **changes: object) -> Path:
    (folder / "model.pt").write_bytes(content)
    manifest = {"artifacts": [ARTIFACT | changes]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def names(folders: list[Path]) -> list[str]:
    return [folder.name for folder in folders]


def test_every_model_with_a_version_is_served(models):
    assert names(served_models(models)) == ["a", "b", "over_a"]
    assert names(served_models(models, ["b"])) == ["b"]
    assert names(served_models(models, ["over_a"])) == ["a", "over_a"]
    assert names(servable(models)) == ["a", "b", "over_a"]
    assert names(servable(models, ["b", "empty", "c"])) == ["b"]
    assert servable(models / "none") == []


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("file", [], "file is not a folder: name a model repository with `repository`"),
        ("empty", [], "empty holds no exported model. Export one: python -m export"),
        ("", ["c", "b", "d"], "holds no exported model c, d: choose from a, b, over_a"),
    ],
)
def test_there_is_nothing_to_serve(models, name, asked, message):
    with pytest.raises(NothingToServe, match=message):
        served_models(models / name, asked)


def test_one_version_of_a_model(models):
    a, b, over = (models / name for name in ("a", "b", "over_a"))
    assert chosen_models(models) == [ServedFolder(each) for each in (a, b, over)]
    chosen = chosen_models(models, ["a@9", "b", "a@2", "a@9"])
    assert chosen == [
        ServedFolder(a, 2, renamed=True),
        ServedFolder(a, 9, renamed=True),
        ServedFolder(b),
    ]
    assert [model.name for model in chosen] == ["a@2", "a@9", "b"]
    assert [model.versions for model in chosen] == [[2], [9], [1]]
    # What an ensemble needs is served as well.
    assert chosen_models(models, ["over_a@1"]) == [ServedFolder(a), ServedFolder(over, 1, True)]
    with pytest.raises(NothingToServe, match="^a has no version 3: choose from 2, 9, 10$"):
        chosen_models(models, ["a@3"])


def test_how_a_version_is_named():
    read = {text: model_and_version(text) for text in ("a", "a@9", "a@b@9", "a@", "@9", "a@x")}
    assert read["a"] == ("a", None) and read["a@9"] == ("a", 9) and read["a@b@9"] == ("a@b", 9)
    assert all(read[text] == (text, None) for text in ("a@", "a@x"))


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", [10]),
        ("version_policy { latest { } }", [10]),
        ("version_policy { latest { num_versions: 2 } }", [9, 10]),
        ("version_policy { latest { num_versions: 9 } }", [2, 9, 10]),
        ("version_policy { all { } }", [2, 9, 10]),
        ("version_policy { specific { versions: [10, 2, 3] } }", [2, 10]),
        ("version_policy { specific { } }", []),
        ("version_policy {", []),
    ],
)
def test_the_versions_of_a_policy(models, policy, expected):
    (models / "a/config.pbtxt").write_text(policy)
    assert versions_to_serve(models / "a") == expected
    assert ServedFolder(models / "a").versions == expected


def test_files_are_compared_with_the_manifest(tmp_path):
    assert differences(tmp_path) is None
    assert differences(published(tmp_path)) == []
    assert differences(published(tmp_path, b"Artifact")) == [
        "model.pt was changed: its sha256 is not the published one"
    ]
    assert differences(published(tmp_path, b"artifac")) == [
        "model.pt has 7 bytes, and 8 were published"
    ]
    (tmp_path / "model.pt").unlink()
    assert differences(tmp_path) == ["model.pt is missing"]
    (tmp_path / "model.pt").mkdir()
    assert differences(tmp_path) == ["model.pt is missing"]
    for text in ("{", "[" * 100_000):
        (tmp_path / "manifest.json").write_text(text)
        assert differences(tmp_path) == ["manifest.json is damaged"]
    (tmp_path / "manifest.json").unlink()
    os.mkfifo(tmp_path / "manifest.json")
    assert differences(tmp_path) is None


@pytest.mark.parametrize(
    "artifacts",
    [
        *(None, [], {}, [1], [ARTIFACT, {}], [ARTIFACT, ARTIFACT | {"file": 1}]),
        *([ARTIFACT | {"file": name}] for name in ("", ".", "..", "a/b", "/a", "a\0")),
        *([ARTIFACT | {"sha256": 1}], [ARTIFACT | {"bytes": "8"}], [ARTIFACT | {"bytes": True}]),
    ],
    ids=repr,
)
def test_a_manifest_that_names_no_files_beside_it(tmp_path, artifacts):
    published(tmp_path)
    for content in ({"artifacts": artifacts}, artifacts):
        (tmp_path / "manifest.json").write_text(json.dumps(content))
        assert differences(tmp_path) == ["manifest.json names no artifacts beside it"]


def test_the_newest_older_version_that_is_intact_is_served(models):
    for version in (2, 9, 10):
        published(models / "a" / str(version))
    told: list[str] = []
    whole = chosen_models(models, ["a", "b"])
    assert intact_models(whole, told.append) == whole and not told
    (models / "a/10/model.pt").unlink()
    assert intact_models(whole, told.append) == [ServedFolder(models / "a", 9), whole[1]]
    assert told == [
        "model a: version 9 is served, because version 10 is not as it was published: model.pt "
        "is missing"
    ]
    (models / "a/9/model.pt").unlink()
    assert intact_models(whole)[0] == ServedFolder(models / "a", 2)
    (models / "a/2/model.pt").unlink()
    assert intact_models(whole) == whole
    named = chosen_models(models, ["a@10"])
    assert intact_models(named) == named


def test_a_model_whose_files_were_changed_is_refused(models):
    published(models / "a/10")
    published(models / "a/9", b"Artifact")  # It is not served.
    told: list[str] = []
    check_artifacts(chosen_models(models), told.append)
    assert told == ["not checked, because there is no manifest: b version 1"]
    published(models / "a/10", b"")
    published(models / "b/1", bytes=9)
    with pytest.raises(IntegrityError) as refused:
        check_artifacts(chosen_models(models))
    first, second, advice = str(refused.value).splitlines()
    assert first == "model 'a' version 10: model.pt has 0 bytes, and 8 were published"
    assert second == "model 'b' version 1: model.pt has 8 bytes, and 9 were published"
    assert "python -m export rollback MODEL" in advice
