"""manifest.json as it may be found on a disk: damaged, or written by somebody else."""

from __future__ import annotations

import errno
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from seresnext101_triton.export import manifest
from seresnext101_triton.export.errors import ManifestError, RepositoryError
from seresnext101_triton.export.repository import Repository


@pytest.fixture
def content(exported) -> dict:
    return json.loads((exported[0].folder / "manifest.json").read_text())


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "3", '"x"', "{", "[" * 100_000, "{}", '{"schema": 2}']
)
def test_what_is_no_manifest_is_none(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    assert manifest.read(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is damaged: JSONDecodeError"),
        ("[]", "has schema None, and this version reads 2"),
        ('{"schema": 9}', "has schema 9, and this version reads 2"),
        ('{"schema": 2}', "is damaged: 'preprocessing'"),
    ],
)
def test_why_a_manifest_cannot_be_used(tmp_path, text, reason):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ManifestError, match=f"manifest.json {reason}"):
        manifest.load(tmp_path)
    with pytest.raises(ManifestError, match="is not there"):
        manifest.load(tmp_path / "nowhere")


def test_a_manifest_that_may_not_be_read_is_not_taken_for_none(tmp_path, monkeypatch):
    """Permissions do not bind root, who may be running this."""
    (tmp_path / "manifest.json").write_text("{}")

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(RepositoryError, match="manifest.json cannot be read: Permission denied"):
        manifest.read(tmp_path)


@pytest.mark.parametrize(
    "name", ["../model.pt", "/etc/passwd", "a/b", "..", ".", "", "a\0b", 3, None]
)
def test_an_artifact_is_a_file_beside_the_manifest(tmp_path, content, name):
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert manifest.read(tmp_path) is not None
    content["artifacts"].append(content["artifacts"][0] | {"file": name})
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert manifest.read(tmp_path) is None


def test_every_artifact_must_be_intact(tmp_path, exported):
    names = ("one", "two")
    for name in names:
        (tmp_path / name).write_text(name)
    artifacts = [
        {"file": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "bytes": 3}
        for name in names
    ]
    facts = replace(exported[0].manifest, artifacts=artifacts)
    assert manifest.is_intact(tmp_path, facts)
    assert not manifest.is_intact(tmp_path, replace(facts, artifacts=[]))
    for name in names:
        for content in ("other", ""):
            (tmp_path / name).write_text(content)
            assert not manifest.is_intact(tmp_path, facts)
        (tmp_path / name).unlink()
        assert not manifest.is_intact(tmp_path, facts)
        (tmp_path / name).write_text(name)


def test_versions_are_ascii_numbers_in_their_order(tmp_path: Path):
    for name in ("1", "9", "10", "02", "0", "-3", "\u0663", "\u00b2", "1_1", " 4", "7\n", "9" * 19):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / "m" / "11").touch()
    repository = Repository(tmp_path)
    assert repository.versions("m") == [1, 9, 10]
    assert repository.latest("m") == tmp_path / "m" / "10"
    assert repository.next_version("m") == 12
