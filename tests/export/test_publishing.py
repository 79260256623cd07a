"""Publishing into repositories with odd paths and files, other users, and killed exports."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from seresnext101_triton.export import journal, manifest
from seresnext101_triton.export.errors import RepositoryError
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.export.serving import Serving
from seresnext101_triton.server import folders
from tests.conftest import QUIET, tiny_request
from tests.export.test_repository import publish

NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@contextmanager
def unprivileged() -> Iterator[Path]:
    """As a user who is not root, in a folder that is that user's."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user takes root, which CI has")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chown(folder, NOBODY, NOBODY)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            yield Path(folder)
        finally:
            os.seteuid(0)
            os.setegid(0)


def half_published(root: Path) -> None:
    """What an export leaves that was killed after it had published the first of two models."""
    for model in ("a", "b"):
        publish(root, "old", "old", model)
    with Repository(root).exclusive() as publication:
        staged = [publication.stage(model) for model in ("a", "b")]
        for each in staged:
            each.write("config.pbtxt", "new")
        moves = [journal.Move.of(each.folder, root, replaces=True) for each in staged]
        journal.write(staged[0].folder.parent, moves)
        moves[0].make()
        publication._staging = None  # a killed process removes nothing


def configs(root: Path) -> list[str]:
    return [(root / model / "config.pbtxt").read_text() for model in ("a", "b")]


@pytest.mark.parametrize(
    "name",
    ["two words", "ünï-çødé", "new\nline", "[x]", "--help", ".hidden", "a.staging-b", "x" * 200],
)
def test_names_of_repositories(tmp_path, name):
    root = tmp_path / name
    half_published(root)
    publish(root, "two", model="c")
    assert configs(root) == ["old", "old"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_one_repository_has_one_lock_and_one_journal_however_it_is_spelled(tmp_path, monkeypatch):
    root = tmp_path / "models"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path / "elsewhere")
    spellings = [
        Path("../models"),
        Path("link"),
        Path(f"{root}/"),
        Path("../models/../elsewhere/link/."),
        root,
    ]
    for spelling in spellings:
        half_published(root)
        with Repository(spelling).exclusive() as publication:
            assert publication.restored == ("a",)
            for other in spellings:
                with (
                    pytest.raises(RepositoryError, match="another export is writing to it"),
                    Repository(other).exclusive(),
                ):
                    pass
        assert configs(root) == ["old", "old"]
        shutil.rmtree(root)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere"]
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["link"]


def test_the_stage_of_another_repository_stays(tmp_path):
    """A repository may be named `models.staging-x`; its stages begin like those of `models`."""
    with Repository(tmp_path / "models.staging-x").exclusive() as publication:
        folder = publication.scratch()
        publish(tmp_path / "models", "one")
        assert folder.is_dir()


def test_a_link_to_itself(tmp_path):
    (tmp_path / "models").symlink_to("models")
    with pytest.raises(RepositoryError, match="models cannot be written, and is as it was"):
        publish(tmp_path / "models", "one")


def test_folders_that_were_made_for_nothing_are_removed(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        Repository(tmp_path / "a" / "b" / "models").exclusive() as publication,
    ):
        publication.scratch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_mount_of_the_same_file_system_is_seen_before_the_work(tmp_path):
    """It has the same device number as its parent folder, and still a rename into it fails."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root, which CI has")
    (tmp_path / "real").mkdir()
    (tmp_path / "models").mkdir()
    subprocess.run(
        ["mount", "--bind", str(tmp_path / "real"), str(tmp_path / "models")], check=True
    )
    try:
        message = "it is a mount point.*name a folder in it, `repository="
        with (
            pytest.raises(RepositoryError, match=message),
            Repository(tmp_path / "models").exclusive() as publication,
        ):
            publication.prepare(["m"], 0)
        publish(tmp_path / "models" / "models", "one")
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path / "models")], check=True)
    assert (tmp_path / "real" / "models" / "m" / "1" / "model.pt").read_text() == "one"


def test_whatever_is_in_a_models_folder_stays(root, tree):
    """Nothing in it is opened: a FIFO would block, and a device might never end."""
    publish(root, "one")
    mine = root / "m" / "mine"
    mine.mkdir(mode=0o750)
    os.mkfifo(mine / "fifo")
    (mine / "file").write_text("mine")
    (mine / "link").symlink_to("file")
    (mine / "dangling").symlink_to("/nowhere")
    (mine / "loop").symlink_to("loop")
    (mine / "folder").symlink_to("/etc")
    (mine / "empty").mkdir()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(os.path.relpath(mine / "socket"))
    before = {path.name: path.lstat().st_mode for path in mine.iterdir()}
    publish(root, "two")
    assert {path.name: path.lstat().st_mode for path in mine.iterdir()} == before
    assert stat.S_IMODE(mine.stat().st_mode) == 0o750
    assert (mine / "file").read_text() == "mine" and (mine / "dangling").readlink() == Path(
        "/nowhere"
    )
    assert [path.name for path in root.parent.iterdir()] == ["models"]


def test_where_files_cannot_be_linked_links_stay_and_a_fifo_is_refused(root, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no links")

    publish(root, "one")
    (root / "m" / "link").symlink_to("1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        publish(root, "two")
    assert (root / "m" / "link").readlink() == Path("1")
    os.mkfifo(root / "m" / "fifo")
    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(RepositoryError, match=r"as it was: no permission for .*fifo"):
        publish(root, "three")
    assert Repository(root).versions("m") == [1, 2]


@pytest.mark.parametrize("kind", ["link", "file", "dangling"])
def test_what_is_no_folder_is_not_replaced(root, tmp_path, kind):
    root.mkdir()
    (tmp_path / "elsewhere").mkdir()
    if kind == "file":
        (root / "m").write_text("mine")
    else:
        (root / "m").symlink_to(tmp_path / ("elsewhere" if kind == "link" else "nowhere"))
    before = (root / "m").lstat().st_ino
    for call in ("prepare", "stage"):
        message = (
            "m is a link or a file where a model's folder should be: "
            "move it, or choose another `name`"
        )
        with (
            pytest.raises(RepositoryError, match=message),
            Repository(root).exclusive() as publication,
        ):
            publication.prepare(["m"], 0) if call == "prepare" else publication.stage("m")
    assert (root / "m").lstat().st_ino == before


@pytest.mark.parametrize("model", ["..", ".", "", "../other", "/etc", "a/b"])
def test_a_model_is_in_the_repository(root, model):
    with (
        pytest.raises(RepositoryError, match="it is a path"),
        Repository(root).exclusive() as publication,
    ):
        publication.stage(model)
    assert not root.parent.joinpath("other").exists()


def test_what_others_do_during_the_work_stays(root):
    """The copy of a model's folder is made after the long work, just before it is published."""
    publish(root, "one")
    repository = Repository(root)
    with repository.exclusive() as publication:
        publication.prepare(["m", "n"], 0)
        built = publication.scratch()
        (root / "m" / "NOTES.md").write_text("mine")
        staged = publication.stage("m")
        staged.add_version(2, built)
        publication.publish()
    assert (root / "m" / "NOTES.md").read_text() == "mine"

    with (
        pytest.raises(RepositoryError, match="as it was: Directory not empty"),
        repository.exclusive() as publication,
    ):
        publication.stage("m").write("config.pbtxt", "new")
        publication.stage("n").write("config.pbtxt", "new")
        (root / "n").mkdir()
        (root / "n" / "mine").touch()
        publication.publish()
    assert (root / "m" / "config.pbtxt").read_text() == "config"
    assert [path.name for path in (root / "n").iterdir()] == ["mine"]


def test_formats_that_are_there_already_are_one_transaction_too(
    exported, tmp_path, tree, monkeypatch
):
    """Two models get another config; the second cannot be published, so the first is put back."""
    root = tmp_path / "models"
    shutil.copytree(exported[0].folder.parent.parent, root)
    before = tree(root)
    request = tiny_request(
        root, formats=("torchscript", "onnx"), serving=Serving(max_batch=4, instances=3)
    )
    make, made = journal.Move.make, []

    def fail_at_second(move: journal.Move) -> None:
        made.append(move.target.name)
        if len(made) == 2:
            raise OSError(5, "Input/output error")
        make(move)

    with monkeypatch.context() as patch:
        patch.setattr(journal.Move, "make", fail_at_second)
        with pytest.raises(RepositoryError, match="as it was: the disk has failed"):
            export(request, QUIET)
    assert made == ["tiny_torchscript", "tiny_onnx"]
    assert tree(root) == before
    assert [outcome.made for outcome in export(request, QUIET)] == [False, False]
    for model in made:
        assert "count: 3" in (root / model / "config.pbtxt").read_text()


def test_a_folder_around_it_that_may_not_be_written():
    with unprivileged() as folder:
        root = folder / "models"
        publish(root, "one")
        folder.chmod(0o555)
        with pytest.raises(
            RepositoryError,
            match=f"models cannot be written, and is as it was: no permission for {folder}",
        ):
            publish(root, "two")
        folder.chmod(0o755)
        root.chmod(0o555)
        with pytest.raises(RepositoryError, match=f"as it was: no permission for {root}"):
            publish(root, "two")
        root.chmod(0o755)
        assert [path.name for path in folder.iterdir()] == ["models"]
        assert Repository(root).versions("m") == [1]


def test_a_model_of_another_user_in_a_folder_of_all():
    with unprivileged() as folder:
        os.seteuid(0)
        root = folder / "models"
        publish(root, "one")
        root.chmod(0o1777)
        os.seteuid(NOBODY)
        with pytest.raises(RepositoryError, match="as it was: no permission"):
            publish(root, "two")
        publish(root, "one", model="mine")
        assert (Repository(root).versions("m"), Repository(root).versions("mine")) == ([1], [1])
        assert [path.name for path in folder.iterdir()] == ["models"]


def test_folders_and_files_that_may_not_be_read_or_written():
    """A model with a read-only folder is published, and its old copy is removed.

    A model with an unreadable file is refused.
    """
    with unprivileged() as folder:
        root = folder / "models"
        publish(root, "one")
        (root / "m" / "mine").mkdir()
        (root / "m" / "mine" / "file").touch()
        (root / "m" / "mine").chmod(0o555)
        publish(root, "two")
        assert stat.S_IMODE((root / "m" / "mine").stat().st_mode) == 0o555
        assert [path.name for path in folder.iterdir()] == ["models"]
        (root / "m" / "1" / "model.pt").chmod(0)
        with pytest.raises(RepositoryError, match=r"as it was: no permission for .*model\.pt"):
            publish(root, "three")
        assert Repository(root).versions("m") == [1, 2]
        (root / "m" / "mine").chmod(0o755)


def test_an_artifact_that_cannot_be_read_is_not_intact(exported):
    with unprivileged() as folder:
        (folder / "one").write_text("one")
        (folder / "one").chmod(0)
        facts = exported[0].manifest
        artifact = {"file": "one", "sha256": "", "bytes": 3}
        assert not manifest.is_intact(folder, replace(facts, artifacts=[artifact]))


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
def test_a_manifest_that_is_no_file(tmp_path, make):
    make(tmp_path / "manifest.json")
    assert manifest.read(tmp_path) is None


def test_an_export_that_was_killed_before_its_first_rename_has_changed_nothing(root):
    publish(root, "old", "old", "a")
    with Repository(root).exclusive() as publication:
        staged = publication.stage("a")
        staged.write("config.pbtxt", "new")
        moves = [journal.Move.of(staged.folder, root, replaces=True)]
        journal.write(staged.folder.parent, moves)
        publication._staging = None  # a killed process removes nothing
    with Repository(root).exclusive() as publication:
        assert publication.restored == ()
    assert (root / "a" / "config.pbtxt").read_text() == "old"
    assert [path.name for path in root.parent.iterdir()] == ["models"]


@pytest.mark.parametrize("text", ["", "{", '{"models": [{"name": "a"', "\0" * 64])
def test_a_journal_that_was_not_finished_comes_before_every_rename(root, text):
    publish(root, "one")
    staging = root.parent / ".models.staging-dead"
    staging.mkdir()
    (staging / ".journal.json").write_text(text)
    with Repository(root).exclusive() as publication:
        assert publication.restored == ()
    assert [path.name for path in root.parent.iterdir()] == ["models"]


@pytest.mark.parametrize("name", ["../outside", "/etc", "..", 3])
def test_a_journal_that_names_other_folders_is_not_followed(root, name):
    """Others may write to the folder around the repository: /tmp is one."""
    publish(root, "one")
    staging = root.parent / ".models.staging-dead"
    staging.mkdir()
    (staging / ".journal.json").write_text(
        json.dumps({"models": [{"name": name, "inode": 1, "replaces": True}]})
    )
    with (
        pytest.raises(RepositoryError, match="is not a journal of this exporter"),
        Repository(root).exclusive(),
    ):
        pass
    assert staging.is_dir()


def test_copies_of_a_half_published_repository_are_left_to_a_person(tmp_path):
    """Inode numbers tell new from old, and a copy has others."""
    half_published(tmp_path / "one" / "models")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    root = tmp_path / "two" / "models"
    with pytest.raises(
        RepositoryError,
        match="it cannot be told which of .*/two/models/a and .* is the old one: "
        "keep the one you want",
    ):
        publish(root, "two", model="c")
    assert configs(root) == ["new", "old"]
    (staging,) = root.parent.glob(".models.staging-*")
    shutil.rmtree(staging)
    publish(root, "two", model="c")
    assert configs(root) == ["new", "old"]


def test_a_publication_whose_process_was_killed_at_its_very_end_stays(root):
    half_published(root)
    (staging,) = root.parent.glob(".models.staging-*")
    folders.exchange(staging / "b", root / "b")
    with Repository(root).exclusive() as publication:
        assert publication.restored == ()
    assert configs(root) == ["new", "new"]


def test_what_cannot_be_mended_is_named(root):
    """The old model is gone from the staging folder: somebody has tidied up."""
    half_published(root)
    (staging,) = root.parent.glob(".models.staging-*")
    shutil.rmtree(staging / "a")
    with pytest.raises(
        RepositoryError,
        match="undoing that failed: No such file or directory.* a is new, b is as it was",
    ):
        publish(root, "two")
    assert configs(root) == ["new", "old"]
