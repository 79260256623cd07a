"""What a change of a repository in an object store consists of, without a store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from seresnext101_triton.export import sharing
from seresnext101_triton.export.config import from_text
from seresnext101_triton.export.errors import RepositoryError
from seresnext101_triton.export.locks import FolderLock
from seresnext101_triton.export.sharing import Place, opened
from seresnext101_triton.server.mirror import Index

CONFIG = 'backend: "onnxruntime"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one model of two versions, and what is beside models and versions."""
    model = tmp_path / "models" / "m"
    for version in ("1", "2"):
        (model / version).mkdir(parents=True)
        (model / version / "manifest.json").write_text("{}")
    (model / "config.pbtxt").write_text(CONFIG)
    (model / "configs").mkdir()
    (model / "configs" / "embedded.pbtxt").write_text("embedded")
    (model / "2" / "model.onnx").write_bytes(b"\xff")
    (model.parent / ".hidden").mkdir()
    (model.parent / ".hidden" / "x").touch()
    (model.parent / "README").touch()
    return model.parent


def test_the_index_of_a_repository(root):
    before = Index(
        4,
        {
            "m/1/model.onnx": "of an artifact that was not fetched",
            "m/7/model.onnx": "of a version that is gone",
            "other/1/model.onnx": "of a model that is gone",
        },
        {"m/labels.txt": "a text that is gone"},
    )
    found = sharing._index_of(root, before)
    assert found.generation == 5
    assert found.files == {
        "m/1/model.onnx": "of an artifact that was not fetched",
        "m/2/model.onnx": hashlib.sha256(b"\xff").hexdigest(),
    }
    assert found.texts == {
        "m/1/manifest.json": "{}",
        "m/2/manifest.json": "{}",
        "m/config.pbtxt": CONFIG,
        "m/configs/embedded.pbtxt": "embedded",
    }
    known = Index(0, {"m/2/model.onnx": "as it was noted"})
    assert sharing._index_of(root, known).files == {"m/2/model.onnx": "as it was noted"}


def test_short_texts_in_a_version_are_in_the_index(root):
    short, longer = root / "m" / "1" / "model.xml", root / "m" / "1" / "labels.txt"
    short.write_text("x" * 65536)
    assert sharing._text(short, in_version=True) == "x" * 65536
    short.write_text("x" * 65537)
    assert sharing._text(short, in_version=True) is None
    longer.write_text("x" * 65537)
    assert sharing._text(longer, in_version=True) == "x" * 65537
    short.write_bytes(b"\xff")
    assert sharing._text(short, in_version=True) is None


def test_what_lies_beside_versions_must_be_text(root):
    path = root / "m" / "labels.txt"
    path.write_text("x" * 65537)
    assert sharing._text(path, in_version=False) == "x" * 65537
    path.write_bytes(b"\xff")
    with pytest.raises(RepositoryError, match=r"labels\.txt is not text: beside versions"):
        sharing._text(path, in_version=False)


def test_triton_is_told_the_versions_that_are_there():
    index = Index(
        1,
        {"m/9/a": "", "m/10/a": "", "n/11/a": ""},
        {"m/config.pbtxt": CONFIG, "m/labels.txt": "a\n", "m/9/config.pbtxt": "kept"},
    )
    stored = from_text(sharing._as_stored(index, "m/config.pbtxt").decode())
    assert stored.backend == "onnxruntime"
    assert list(stored.version_policy.specific.versions) == [10]
    assert sharing._as_stored(index, "m/labels.txt") == b"a\n"
    assert sharing._as_stored(index, "m/9/config.pbtxt") == b"kept"
    all_of_them = Index(1, index.files, {"m/config.pbtxt": "version_policy { all { } }"})
    stored = from_text(sharing._as_stored(all_of_them, "m/config.pbtxt").decode())
    assert list(stored.version_policy.specific.versions) == [9, 10]
    withheld = from_text(sharing._withheld(CONFIG).decode())
    assert withheld.backend == "onnxruntime"
    assert list(withheld.version_policy.specific.versions) == [0]


def test_what_a_change_writes_and_removes():
    old = Index(
        1,
        {"m/1/a": "1", "m/2/a": "2"},
        {"m/config.pbtxt": CONFIG, "m/x": "same", "m/y": "old", "m/z": "gone"},
    )
    texts = {"m/config.pbtxt": CONFIG, "m/x": "same", "m/y": "new", "m/w": "added"}
    assert sharing._differences(old, Index(2, old.files, texts)) == ["m/y", "m/w", "m/z"]
    # By the same config, Triton serves another version.
    new = Index(2, {"m/2/a": "2", "m/3/a": "3"}, dict(old.texts))
    assert sharing._differences(old, new) == ["m/config.pbtxt", "m/1/a"]
    assert sharing._differences(old, old) == []


def test_a_folder_of_this_machine_is_used_as_it_is(root):
    with opened(str(root)) as place:
        assert place == Place(root) and place.url == ""
    assert place.shown(root / "m") == str(root / "m")
    assert not sharing.is_shared(root)
    sharing.complete(root / "m" / "1")
    assert type(sharing.changes(root)) is FolderLock
    shared = Place(root, "s3://bucket/models")
    assert shared.shown(f"{root}/m: wrong") == "s3://bucket/models/m: wrong"


def test_who_changes_a_repository_is_waited_for(root):
    first, second = sharing.changes(root), sharing.changes(root)
    first.take()
    try:
        with pytest.raises(RepositoryError, match=f"{root}: another process .* for 60 s; run"):
            second.take(0.01)
    finally:
        first.release()
    second.take(0.01)
    second.release()
