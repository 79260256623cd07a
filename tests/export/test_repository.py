"""Publishing: whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from seresnext101_triton.export import journal, publication
from seresnext101_triton.export.errors import RepositoryError
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.server import folders
from tests.waiting import until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


def publish(root: Path, content: str, config: str = "config", model: str = "m") -> None:
    repository = Repository(root)
    with repository.exclusive() as publication:
        built = publication.scratch()
        (built / "model.pt").write_text(content)
        staged = publication.stage(model)
        staged.add_version(repository.next_version(model), built)
        staged.write("config.pbtxt", config)
        publication.publish()


@contextmanager
def mounted(folder: Path, options: str):
    """A small file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root, which CI has")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_versions_count_up_and_old_ones_stay(root, tree):
    publish(root, "one", "first")
    before = tree(root / "m" / "1")
    publish(root, "two", "second")
    assert Repository(root).versions("m") == [1, 2]
    assert Repository(root).latest("m") == root / "m" / "2"
    assert tree(root / "m" / "1") == before
    assert (root / "m" / "config.pbtxt").read_text() == "second"
    assert [path.name for path in root.parent.iterdir()] == ["models"]


def test_what_others_put_into_a_model_stays(root):
    publish(root, "one")
    (root / "m" / "NOTES.md").write_text("keep me")
    (root / "m" / "warmup").mkdir()
    (root / "m" / "7").mkdir()
    publish(root, "two")
    assert (root / "m" / "NOTES.md").read_text() == "keep me"
    assert (root / "m" / "warmup").is_dir()
    assert Repository(root).versions("m") == [1, 7, 8]


def test_a_stage_that_is_not_published_leaves_nothing(root, tree):
    publish(root, "one")
    before = tree(root)
    repository = Repository(root)
    with pytest.raises(ZeroDivisionError), repository.exclusive() as publication:
        (publication.scratch() / "model.pt").write_text("two")
        publication.stage("m").write("config.pbtxt", "changed")
        raise ZeroDivisionError
    assert tree(root) == before
    assert [path.name for path in root.parent.iterdir()] == ["models"]


def test_a_new_repository_that_stays_empty_is_removed(root):
    repository = Repository(root)
    with pytest.raises(ZeroDivisionError), repository.exclusive() as publication:
        publication.stage("m")
        raise ZeroDivisionError
    assert not root.exists()


def test_one_change_waits_for_another(root):
    publish(root, "new")
    entered: list[str] = []

    def change(name: str, pause_s: float) -> None:
        with Repository(root).changing():
            entered.append(f"{name} begins")
            time.sleep(pause_s)
            entered.append(f"{name} ends")

    first = threading.Thread(target=change, args=("first", 0.3))
    first.start()
    assert until(lambda: bool(entered))
    change("second", 0)
    first.join()
    assert entered == ["first begins", "first ends", "second begins", "second ends"]


def test_of_a_new_repository_no_folder_above_it_stays_either(tmp_path):
    (tmp_path / "there").mkdir()
    deep = tmp_path / "there" / "a" / "b" / "c" / "d"
    with pytest.raises(ZeroDivisionError), Repository(deep).exclusive():
        assert deep.is_dir()
        raise ZeroDivisionError
    assert list((tmp_path / "there").iterdir()) == []
    with Repository(deep).exclusive():
        (deep.parent / "of another program").touch()
    assert [path.name for path in (tmp_path / "there/a/b/c").iterdir()] == ["of another program"]


def test_the_model_is_complete_at_every_moment(root, monkeypatch):
    """At every system call that changes the repository, it holds all old files or all new ones."""
    publish(root, "one", "first")
    seen = []

    def look() -> None:
        versions = tuple(Repository(root).versions("m"))
        seen.append((versions, (root / "m" / "config.pbtxt").read_text()))

    exchange = folders.exchange
    monkeypatch.setattr(publication, "sync", lambda path: look())
    monkeypatch.setattr(
        journal, "exchange", lambda one, other: (look(), exchange(one, other), look())
    )
    publish(root, "two", "second")
    assert set(seen) == {((1,), "first"), ((1, 2), "second")}


def test_a_file_system_without_exchange(root, monkeypatch):
    class Libc:
        def __init__(self, *_: object, **__: object) -> None:
            self.renameat2 = self

        def __call__(self, *_: object) -> int:
            return -1

    publish(root, "one", "first")
    monkeypatch.setattr(ctypes, "CDLL", Libc)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EINVAL)
    publish(root, "two", "second")
    assert Repository(root).versions("m") == [1, 2]
    assert (root / "m" / "config.pbtxt").read_text() == "second"
    assert [path.name for path in root.parent.iterdir()] == ["models"]


def test_a_file_system_without_hard_links(root, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links")

    publish(root, "one")
    monkeypatch.setattr(os, "link", refuse)
    publish(root, "two")
    assert (root / "m" / "1" / "model.pt").read_text() == "one"
    assert Repository(root).versions("m") == [1, 2]


def test_two_exports_at_once(root):
    repository = Repository(root)
    with (
        repository.exclusive(),
        pytest.raises(RepositoryError, match="another export is writing to it"),
        Repository(root).exclusive(),
    ):
        pass


def test_leftovers_of_a_killed_export_are_cleared_away(root):
    publish(root, "one")
    (root.parent / ".models.staging-dead" / "m" / "2").mkdir(parents=True)
    (root.parent / ".other.staging-dead").mkdir()
    publish(root, "two")
    assert sorted(path.name for path in root.parent.iterdir()) == [".other.staging-dead", "models"]


def test_other_users_may_read_what_is_published(root):
    publish(root, "one")
    assert (root / "m").stat().st_mode & 0o755 == 0o755
    assert (root / "m" / "1").stat().st_mode & 0o755 == 0o755


def test_too_little_room_is_seen_before_the_work(root):
    repository = Repository(root)
    message = r"about 1000000000000 MB will be written and \d+ MB are free"
    with pytest.raises(RepositoryError, match=message), repository.exclusive() as publication:
        publication.prepare(["m"], 10**18)
    assert not root.exists()


def test_a_disk_that_fills_up_meanwhile(tmp_path, tree):
    disk = tmp_path / "disk"
    with mounted(disk, "size=256k"):
        root = disk / "models"
        publish(root, "one")
        before = tree(root)
        with pytest.raises(
            RepositoryError,
            match="cannot be written, and is as it was: the disk is full: make room",
        ):
            publish(root, "x" * 1_000_000)
        assert tree(root) == before
        assert [path.name for path in disk.iterdir()] == ["models"]


def test_a_read_only_repository(tmp_path, tree):
    disk = tmp_path / "disk"
    with mounted(disk, "size=256k"):
        publish(disk / "models", "one")
        before = tree(disk / "models")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for root in (disk / "models", disk / "new"):
            with pytest.raises(
                RepositoryError, match="the file system is read-only: name another `repository`"
            ):
                publish(root, "two")
        assert tree(disk / "models") == before


def test_a_mount_point(tmp_path):
    disk = tmp_path / "disk"
    with (
        mounted(disk, "size=256k"),
        pytest.raises(
            RepositoryError, match="it is a mount point.*name a folder in it, `repository="
        ),
    ):
        publish(disk, "one")


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "models").touch()
    with pytest.raises(RepositoryError, match="models cannot be written"):
        publish(tmp_path / "models", "one")


@pytest.mark.parametrize("name", ["models[1]", "mod*", "m?dels", "[!a]", "a.b+c"])
def test_a_repository_whose_name_is_a_pattern(tmp_path, name):
    """Its own leftovers are removed; those of repositories that match the pattern stay."""
    others = [
        tmp_path / f".{other}.staging-dead" for other in ("models1", "models", "b", "aab", "axbbc")
    ]
    for folder in (*others, tmp_path / f".{name}.staging-dead"):
        folder.mkdir()
    publish(tmp_path / name, "one")
    publish(tmp_path / name, "two")
    assert Repository(tmp_path / name).versions("m") == [1, 2]
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / name])
