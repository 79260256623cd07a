"""The words of object stores, their objects in the memory of the tests, and a repository's index.

`test_object_store.py` has the same with a real S3 server.
"""

from __future__ import annotations

import hashlib
import json
import sys

import pytest
from obstore.store import MemoryStore

from seresnext101_triton.client import objects
from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.server.errors import InstallationError, StoreError
from seresnext101_triton.server.mirror import Index
from seresnext101_triton.server.store import Read, Store, checked, is_url

URL = "s3://bucket/models"


@pytest.mark.parametrize("url", ["s3://b", "gs://b/p", "az://b/p/q", "s3://b/p-1_x.y"])
def test_urls_of_object_stores(url):
    assert checked(url) == checked(f"{url}/") == url and is_url(url)


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://b/p", "s3://", "s3:///p", "s3://b//p", "s3://k:s@b/p", "s3://b/p?x", "s3://b/p#x"),
        *("s3://b/a b", "S3://b/p", "s3:/b/p"),
    ],
)
def test_what_is_no_url_of_an_object_store(url):
    with pytest.raises(UsageError, match=r"^`repository` '.*name s3://BUCKET/PATH, gs://BUCKET"):
        checked(url)


def test_a_folder_is_no_url():
    assert not is_url("models") and not is_url("/s3:/models")


@pytest.mark.parametrize(
    ("text", "refused", "meaning"),
    [
        ("<Code>NoSuchBucket</Code>", True, "there is no such bucket: create it"),
        ("ContainerNotFound", False, "there is no such bucket: create it"),
        ("The specified bucket does not exist.", False, "there is no such bucket: create it"),
        ("GET http://169.254.169.254/latest", False, "no credentials: set AWS_ACCESS_KEY_ID and"),
        ("GET http://169.254.170.2/v2", False, "no credentials: set"),
        ("metadata.google.internal", False, "no credentials: set"),
        ("PUT http://x/latest/api/token", True, "no credentials: set"),
        ("Account must be specified", False, "no credentials: set"),
        ("anything", True, "access is denied: the credentials must be valid"),
        ("status code: 401", False, "access is denied"),
        ("status code: 403 Forbidden", False, "access is denied"),
        ("HTTP error: connection refused", False, "the store does not answer: look at the network"),
        ("status code: 404", False, "the store cannot be used: status code: 404"),
        (
            "Odd answer of https://b.s3/p?X-Signature=1 (why)\nand its stack",
            False,
            "the store cannot be used: Odd answer of the store (why)",
        ),
    ],
)
def test_what_an_error_of_a_store_means(text, refused, meaning):
    found = objects.meaning(text, refused=refused)
    assert found.startswith(meaning)
    assert "\n" not in found and "Signature" not in found


@pytest.fixture
def store(monkeypatch) -> Store:
    """A store that is in memory."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "x")
    found = Store(f"{URL}/")
    # An artifact may have gigabytes, and a store of one's own has no certificate.
    timeouts = {"connect_timeout": "5s", "timeout": "3600s"}
    assert found._store.client_options == {"allow_http": "true"} | timeouts
    assert found._store.retry_config["max_retries"] == 3
    assert found._store.retry_config["retry_timeout"].total_seconds() == 60
    assert (found.url, found._store.prefix) == (URL, "models")
    found._store = MemoryStore()
    return found


def test_an_object_is_there_from_its_creation_to_its_end(store, tmp_path):
    assert store.read("a") is None and not store.has_changed("a", None)
    mark = store.create("a", b"one")
    assert mark and not store.has_changed("a", mark) and store.has_changed("a", None)
    assert store.read("a") == Read(b"one", mark) and set(mark) == {"e_tag", "version"}
    # A write whose answer was lost is tried again, and finds itself.
    assert store.create("a", b"one") == mark and store.create("a", b"two") is None
    file = tmp_path / "file"
    file.write_bytes(b"one")
    assert store.create("a", file) is None and store.create("b", file)
    store.write("a", b"two")
    assert store.has_changed("a", mark) and store.read("a").content == b"two"
    store.remove("a")
    store.remove("a")
    assert store.read("a") is None and store.digest("a") == ""
    assert store.digest("b") == hashlib.sha256(b"one").hexdigest()


def test_of_two_writers_one_learns_that_it_came_too_late(store):
    first = store.create("a", b"one")
    second = store.replace("a", b"two", first)
    assert second and second != first and store.read("a") == Read(b"two", second)
    assert store.replace("a", b"three", first) is None and store.read("a").content == b"two"
    assert store.replace("a", b"two", first) == second  # its answer was lost
    store.remove("a")
    assert store.replace("a", b"four", second) is None and store.read("a") is None


def test_errors_of_a_store_are_explained(store, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError("NoSuchBucket: it is not there")

    for name in ("get", "put", "delete"):
        monkeypatch.setattr(store._obstore, name, refuse)
    for ask in (
        lambda: store.read("a"),
        lambda: store.write("a", b""),
        lambda: store.replace("a", b"", {"e_tag": "1"}),
        lambda: store.digest("a"),
        lambda: store.remove("a"),
    ):
        with pytest.raises(StoreError, match=f"^{URL}: there is no such bucket"):
            ask()
    monkeypatch.undo()
    store.write("a", b"one")
    with pytest.raises(FileNotFoundError):
        store.digest("a", tmp_path / "none" / "file")


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(InstallationError, match=rf"^{URL} needs the package obstore.*'\.\[s3\]'$"):
        Store(URL)


INDEX = Index(
    7,
    {"m/1/model.onnx": "ab", "m/1/folder/file": "cd", "mm/2/model.pt": "ef"},
    {"m/config.pbtxt": "é", "m/configs/embedded.pbtxt": ""},
)


def test_an_index_comes_back_as_it_was_stored():
    assert Index.of(INDEX.to_bytes(), URL) == INDEX
    assert json.loads(INDEX.to_bytes()) == {
        "schema": 1,
        "generation": 7,
        "files": INDEX.files,
        "texts": INDEX.texts,
    }
    assert INDEX.models() == {"m", "mm"}
    assert INDEX.of_model("m") == (
        {"m/1/model.onnx": "ab", "m/1/folder/file": "cd"},
        {"m/config.pbtxt": "é", "m/configs/embedded.pbtxt": ""},
    )
    assert INDEX.of_model("other") == ({}, {})


def damaged(**facts: object) -> bytes:
    return json.dumps({**json.loads(INDEX.to_bytes()), **facts}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"[" * 100_000,
        damaged(schema=2),
        damaged(generation="x"),
        damaged(files=3),
        damaged(texts=None),
        damaged(files={"m/1/a": 1}),
        damaged(texts={"m/a": None}),
        *(
            damaged(texts={path: ""})
            for path in (
                *("a", "m/1/a/b/c", ".m/a", "m//a", "m/./a", "../a", "m/../a", "/m/a", "m/"),
                "",
            )
        ),
    ],
)
def test_an_index_that_is_damaged_is_told(content):
    with pytest.raises(StoreError, match=rf"^{URL}/\.repository\.json is damaged, or of another"):
        Index.of(content, URL)
