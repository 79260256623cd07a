"""Repositories in an object store that is in the memory of the tests, so that each takes no time.

`test_object_store.py` has the same with a real S3 server.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import obstore.store
import pytest
from obstore.store import MemoryStore

from seresnext101_triton.export import lease
from seresnext101_triton.export.errors import RepositoryError
from seresnext101_triton.export.lease import LEASE, Lease
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.export.sharing import opened
from seresnext101_triton.server.errors import IntegrityError, StoreError
from seresnext101_triton.server.mirror import INDEX, Index, Mirror
from seresnext101_triton.server.store import Store
from tests.stores import MODEL, index_of, objects, publish, served

URL = "s3://bucket/models"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> Callable[[str], None]:
    """A function to go on with on another machine, which has fetched nothing yet."""
    store = MemoryStore()
    monkeypatch.setattr(obstore.store, "from_url", lambda url, **_: store)
    monkeypatch.setattr(lease, "_POLL_S", 0.001)

    def go(name: str) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))

    go("one")
    return go


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_published_is_read_on_another_machine(elsewhere):
    assert [publish(URL, content) for content in ("one", "two")] == [1, 2]
    found = objects(URL)
    assert served(found) == [2] and LEASE not in found
    index = index_of(found)
    assert index.generation == 2 and index.models() == {MODEL}
    assert set(found) == {INDEX, *index.files, *index.texts}
    assert set(index.files) == {f"{MODEL}/{number}/model.onnx" for number in (1, 2)}
    elsewhere("other")
    with opened(f"{URL}/") as place:
        assert place.url == URL and place.shown(place.folder) == URL
        # Texts come at once, and artifacts when they are needed.
        local = contents(place.folder)
        assert local == {path: text.encode() for path, text in index.texts.items()}
        mirror = Mirror.at(place.folder)
        assert mirror is not None and mirror.url == URL
        mirror.forget()  # as a pull does that fails
        mirror.complete(place.folder / MODEL / "1")
        assert contents(place.folder)[f"{MODEL}/1/model.onnx"] == b"one\xff"
        assert f"{MODEL}/2/model.onnx" not in contents(place.folder)
    assert publish(URL, "three") == 3
    assert served(objects(URL)) == [3]
    assert index_of(objects(URL)).files.items() > index.files.items()


def test_what_is_removed_goes_from_the_store_and_from_every_mirror(elsewhere, tmp_path):
    publish(URL, "one")
    elsewhere("other")
    other = Mirror(URL, "served")
    other.pull(lambda folder: [1])
    elsewhere("one")
    with opened(URL) as place, Repository(place.folder).changing() as publication:
        staged = publication.stage(MODEL)
        staged.write("labels.txt", None)
        staged.write("notes.txt", "new")
        publication.publish()
    found = objects(URL)
    assert f"{MODEL}/labels.txt" not in found and found[f"{MODEL}/notes.txt"] == b"new"
    elsewhere("other")
    index, mark = other.pull(lambda folder: [1])
    assert mark is not None and index == index_of(found)
    local = contents(other.root)
    assert local.pop(f"{MODEL}/1/model.onnx") == b"one\xff"  # it was not fetched again
    assert local == {path: text.encode() for path, text in index.texts.items()}
    Store(URL).write(INDEX, Index(9, {}, {}).to_bytes())
    other.pull()
    assert list(other.root.iterdir()) == []


def test_a_mirror_gets_the_artifacts_that_are_wanted(elsewhere):
    for content in ("one", "two"):
        publish(URL, content)
    elsewhere("other")
    mirror = Mirror(URL, "served")
    asked: list[list[str]] = []

    def wanted(folder: Path) -> list[int]:
        asked.append(sorted(path.name for path in folder.iterdir()))
        return [2]

    mirror.pull(wanted)
    assert asked == [["1", "2", "config.pbtxt", "labels.txt"]]
    assert {path for path in contents(mirror.root) if path.endswith("onnx")} == {
        f"{MODEL}/2/model.onnx"
    }
    inode = (mirror.root / MODEL).stat().st_ino
    mirror.pull(wanted)
    mirror.pull()
    assert (mirror.root / MODEL).stat().st_ino == inode and len(asked) == 2
    mirror.pull(lambda folder: [1, 2])
    assert contents(mirror.root)[f"{MODEL}/1/model.onnx"] == b"one\xff"
    assert (mirror.root / MODEL).stat().st_ino != inode
    assert [path.name for path in mirror._home.iterdir() if path.name.startswith(".pull")] == []


def test_an_artifact_that_was_changed_is_not_taken(elsewhere):
    for content in ("one", "two"):
        publish(URL, content)
    elsewhere("other")
    mirror = Mirror(URL, "served")
    mirror.pull(lambda folder: [2])
    before = contents(mirror.root)
    path = f"{MODEL}/1/model.onnx"
    Store(URL).write(path, b"half")
    message = f"^{URL}/{path} is not the file that was published: choose another version, or"
    for attempt in (
        lambda: mirror.complete(mirror.root / MODEL / "1"),
        lambda: mirror.pull(lambda folder: [1]),
    ):
        with pytest.raises(IntegrityError, match=message):
            attempt()
        assert contents(mirror.root) == before
    mirror.pull()
    mirror.complete(mirror.root / MODEL / "1", anew=True)  # whatever it is
    assert contents(mirror.root) == {**before, path: b"half"}
    Store(URL).remove(path)
    mirror.complete(mirror.root / MODEL / "1", anew=True)
    assert contents(mirror.root) == before
    with pytest.raises(IntegrityError, match=f"{path} is missing: choose"):
        mirror.complete(mirror.root / MODEL / "1")


def test_a_damaged_model_leaves_the_others_as_they_are_published(elsewhere):
    publish(URL, "one")
    elsewhere("other")
    mirror = Mirror(URL, "served")
    index = index_of(objects(URL))
    texts = {**index.texts, "a/config.pbtxt": "", "z/config.pbtxt": ""}
    Store(URL).write(INDEX, replace(index, texts=texts).to_bytes())
    Store(URL).write(f"{MODEL}/1/model.onnx", b"half")
    with pytest.raises(IntegrityError):
        mirror.pull(lambda folder: [1])
    assert {path.name for path in mirror.root.iterdir()} == {"a", "z"}
    assert mirror._recorded() is None


def test_a_folder_is_a_mirror_only_in_its_place(tmp_path):
    mirror = Mirror(URL, "served")
    assert Mirror(URL, "exports").root != mirror.root == Mirror(f"{URL}/", "served").root
    found = Mirror.at(mirror.root)
    assert found is not None and (found.url, found.root) == (URL, mirror.root)
    assert Mirror.at(tmp_path) is None
    assert (mirror.root.parent / "origin").read_text() == f"served {URL}"
    assert mirror.root.parent.stat().st_mode & 0o777 == 0o700
    (tmp_path / "models").mkdir()
    (tmp_path / "origin").write_text(f"served {URL}")
    assert Mirror.at(tmp_path / "models") is None
    assert Mirror(URL, "served").pull() == (Index(), None)


def test_a_change_that_did_not_come_to_its_end_is_undone_or_completed(monkeypatch, capsys):
    """Its process has died, once before and once after the index was replaced."""
    publish(URL, "one")
    before = objects(URL)
    store = Store(URL)
    pending = [f"{MODEL}/2/model.onnx", f"{MODEL}/labels.txt", "new/config.pbtxt"]
    monkeypatch.setattr(lease, "_is_dead", lambda holder: holder.get("pid") == 0)
    left = {"holder": {"pid": 0}, "beat": 1, "pending": pending}
    for path in (*pending, "new/1/model.onnx"):
        store.write(path, b"half")
    store.write(LEASE, json.dumps(left).encode())
    with opened(URL) as place, Repository(place.folder).changing() as publication:
        publication.stage(MODEL)
        publication.publish()
    assert "an earlier change did not come to its end; what it left was" in capsys.readouterr().err
    found = objects(URL)
    assert found.pop("new/1/model.onnx") == b"half"  # which no lease names
    assert index_of(found).generation > index_of(before).generation
    assert {**found, INDEX: b""} == {**before, INDEX: b""}
    index = index_of(found)
    texts = {**index.texts, f"{MODEL}/labels.txt": "of a change\n"}
    store.write(INDEX, replace(index, texts=texts).to_bytes())
    store.write(LEASE, json.dumps(left).encode())
    assert publish(URL, "two") == 2
    found = objects(URL)
    assert served(found) == [2] and LEASE not in found
    assert found[f"{MODEL}/1/labels.txt"] == b"of a change\n"


def test_a_lease_is_anothers_until_it_is_given_back(monkeypatch):
    monkeypatch.setattr(lease, "_machine", lambda: "")
    first = Lease(Store(URL))
    monkeypatch.setattr(lease, "_this_process", lambda: {"host": "h", "pid": 2})
    second = Lease(Store(URL))
    assert first.take(0) is None
    document = json.loads(objects(URL)[LEASE])
    assert (document["beat"], document["pending"]) == (1, [])
    with pytest.raises(
        RepositoryError, match=rf"^{URL}: another process has been changing it for 0"
    ):
        second.take(0.0)
    first.note(["a", "b"])
    assert json.loads(objects(URL)[LEASE])["pending"] == ["a", "b"]
    first.check()
    first.release(finished=False)
    assert LEASE in objects(URL)
    with pytest.raises(RepositoryError, match="was silent for too long"):
        first.check()
    third = Lease(Store(URL), lease_s=0.01)
    assert third.take(60) == ["a", "b"]  # its holder is silent
    third.release(finished=True)
    assert objects(URL) == {}
    assert second.take(0) is None
    second.release(finished=True)


def test_a_damaged_lease_has_nothing_pending(monkeypatch):
    monkeypatch.setattr(lease, "_machine", lambda: "")
    for damaged in (b"{", b"[]", b'{"holder": 3}', b'{"holder": {}}', b"[" * 100_000):
        Store(URL).write(LEASE, damaged)
        holder = Lease(Store(URL), lease_s=0.0)
        assert holder.take(60) == []
        holder.release(finished=True)


def test_a_holder_on_this_machine_is_dead_when_its_process_is(monkeypatch):
    own = lease._this_process()
    assert own["machine"] and own["host"] and own["started"].isdigit()
    assert not lease._is_dead(own)
    assert lease._is_dead({**own, "started": "1"})
    assert lease._is_dead({**own, "pid": 2**22 + 1})
    for other in ({**own, "machine": "other", "started": "1"}, {**own, "pid": "1"}, {}):
        assert not lease._is_dead(other)
    monkeypatch.setattr(lease, "_machine", lambda: "")
    assert not lease._is_dead({**own, "machine": "", "started": "1"})


def test_objects_are_written_on_conditions(tmp_path):
    store = Store(URL)
    assert store.read("a") is None and store.digest("a") == ""
    assert not store.has_changed("a", None)
    mark = store.create("a", b"one")
    assert mark is not None and store.create("a", b"two") is None
    assert store.create("a", b"one") == mark  # a write whose answer was lost finds itself
    found = store.read("a")
    assert found is not None and found.content == b"one" and not store.has_changed("a", found.mark)
    new = store.replace("a", b"two", found.mark)
    assert new is not None and store.has_changed("a", found.mark)
    assert store.replace("a", b"three", found.mark) is None
    assert store.digest("a", tmp_path / "copy") == store.digest("a") != ""
    assert (tmp_path / "copy").read_bytes() == b"two"
    (tmp_path / "file").write_bytes(b"x")
    assert store.create("b", tmp_path / "file") is not None
    assert store.create("b", tmp_path / "file") is None
    store.remove("b")
    store.remove("b")
    assert store.has_changed("b", found.mark) and set(objects(URL)) == {"a"}
    with pytest.raises(FileNotFoundError):
        store.digest("a", tmp_path / "none" / "copy")


def test_a_mirror_that_cannot_be_written_is_told(tmp_path, elsewhere):
    (tmp_path / "blocked").write_text("")
    elsewhere("blocked")
    with pytest.raises(StoreError, match="cannot be written: Not a directory"):
        Mirror(URL, "served")
