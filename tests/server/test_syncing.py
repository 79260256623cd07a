"""What comes from an object store to this machine; the store is in the memory of the tests.

`test_object_store.py` has the same with a real S3 server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import obstore.store
import pytest
from obstore.store import MemoryStore

from seresnext101_triton.export import lease
from seresnext101_triton.server import syncing
from seresnext101_triton.server.errors import NothingToServe, StoreError
from seresnext101_triton.server.mirror import INDEX, Index
from seresnext101_triton.server.store import Store
from seresnext101_triton.server.syncing import folder_of, served_folder, texts_of
from tests.stores import MODEL, objects, publish
from tests.waiting import until

URL = "s3://bucket/models"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Callable[[str], None]:
    """A function to go on with on another machine, which has fetched nothing yet."""
    store = MemoryStore()
    monkeypatch.setattr(obstore.store, "from_url", lambda url, **_: store)
    monkeypatch.setattr(lease, "_POLL_S", 0.001)
    monkeypatch.setattr(syncing, "_LOOK_S", 0.01)

    def go(name: str) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))

    go("publisher")
    return go


@pytest.fixture
def published(elsewhere) -> Callable[[str], None]:
    """Two versions, published from another machine than the one to go on with."""
    for content in ("one", "two"):
        publish(URL, content)
    elsewhere("server")
    return elsewhere


def artifacts(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*.onnx")}


def test_a_folder_is_served_as_it_is(tmp_path):
    said: list[str] = []
    before = set(threading.enumerate())
    with folder_of(str(tmp_path), (), follow=True, say=said.append) as folder:
        assert folder == tmp_path
    assert said == [] and set(threading.enumerate()) <= before
    assert texts_of(str(tmp_path)) == tmp_path == served_folder(tmp_path)


@pytest.mark.parametrize(
    ("only", "fetched"),
    [
        ([], {"2"}),
        ([MODEL], {"2"}),
        ([f"{MODEL}@1"], {"1", "2"}),  # and those of its policy
        (["other"], set()),
    ],
)
def test_what_is_served_is_fetched(published, monkeypatch, only, fetched):
    other = Index.of(objects(URL)[INDEX], URL)
    texts = {**other.texts, "other/config.pbtxt": "", "other/1/notes.txt": ""}
    Store(URL).write(INDEX, Index(7, other.files, texts).to_bytes())
    said: list[str] = []
    before = set(threading.enumerate())
    with folder_of(f"{URL}/", only, follow=False, say=said.append) as folder:
        assert artifacts(folder) == {f"{MODEL}/{version}/model.onnx" for version in fetched}
        assert (folder / MODEL / "config.pbtxt").exists()
        assert served_folder(folder) == folder
    assert said == [f"fetching {URL} ..."] and set(threading.enumerate()) <= before


def test_errors_name_the_url_and_not_the_folder(published):
    with pytest.raises(NothingToServe, match=f"^{URL} holds no exported model none: choose from m"):
        with folder_of(URL, ["none"], follow=False, say=lambda line: None):
            pass
    with pytest.raises(StoreError, match=f"^{URL} is odd$"):
        with folder_of(URL, (), follow=False, say=lambda line: None) as folder:
            raise StoreError(f"{folder} is odd")


def test_texts_come_without_artifacts(published):
    folder = texts_of(URL)
    assert artifacts(folder) == set() and (folder / MODEL / "labels.txt").read_text() == "two\n"
    assert served_folder(folder) != folder  # what is served has a folder of its own
    with folder_of(URL, (), follow=False, say=lambda line: None) as served:
        assert served_folder(folder) == served


def test_what_is_published_meanwhile_comes_too(published):
    said: list[str] = []
    before = set(threading.enumerate())
    with folder_of(URL, (), follow=True, say=said.append) as folder:
        (thread,) = set(threading.enumerate()) - before
        assert thread.daemon
        assert publish_there(published, "three") == 3
        wanted = {f"{MODEL}/{version}/model.onnx" for version in (2, 3)}
        assert until(lambda: artifacts(folder) == wanted)
        labels = folder / MODEL / "labels.txt"

        def told(count: int) -> bool:
            return until(lambda: len(said) > count)

        def labelled(text: str) -> bool:
            return until(lambda: labels.read_text() == f"{text}\n")

        # An error is told once, until all is well again.
        for number in (1, 2):
            index = objects(URL)[INDEX]
            Store(URL).write(INDEX, b"{")
            assert told(number)
            Store(URL).write(INDEX, index)
            publish_there(published, f"whole {number}")
            assert labelled(f"whole {number}")
        assert said[1] == said[2] and len(said) == 3
        assert said[1].startswith(f"{URL}/{INDEX} is damaged")
        assert said[1].endswith("; the models stay as they are, and it is looked at again")
    assert until(lambda: not thread.is_alive())


def publish_there(elsewhere: Callable[[str], None], content: str) -> int:
    elsewhere("publisher")
    number = publish(URL, content)
    elsewhere("server")
    return number


def test_a_damaged_artifact_is_told_once_and_the_models_stay(published):
    said: list[str] = []
    with folder_of(URL, (), follow=True, say=said.append) as folder:
        index = Index.of(objects(URL)[INDEX], URL)
        files = {**index.files, f"{MODEL}/3/model.onnx": "0"}
        texts = {**index.texts, f"{MODEL}/config.pbtxt": "version_policy { all { } }"}
        Store(URL).write(f"{MODEL}/3/model.onnx", b"half")
        Store(URL).write(INDEX, Index(9, files, texts).to_bytes())
        assert until(lambda: len(said) == 2)
        assert said[1].startswith(f"{URL}/{MODEL}/3/model.onnx is not the file that was published")
        assert said[1].endswith("; the model stays as it is")
        Store(URL).write(INDEX, Index(10, index.files, texts).to_bytes())
        assert until(lambda: len(artifacts(folder)) == 2)
    assert len(said) == 2
