"""Images in an object store: a real S3 server, and objects in the memory of the tests."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import MemoryStore

from seresnext101_triton.client import objects, ray_engine
from seresnext101_triton.client.cli import main
from seresnext101_triton.client.errors import ClientError, ImageError, ObjectStoreError
from seresnext101_triton.client.images import ImageOptions, load_image, sample_photographs
from seresnext101_triton.client.sources import LeftOut, Unreadable, expand
from tests.stores import ask, s3_server

CAT = sample_photographs()[0].read_bytes()
ODD = "a b#?%41é.JPG"


@pytest.fixture
def memory(monkeypatch) -> MemoryStore:
    """The store of every bucket."""
    store = MemoryStore()
    monkeypatch.setattr(objects, "_store", lambda _bucket, _timeout_s: store)
    return store


def test_images_below_a_path_are_found(memory):
    for name in (ODD, "sub/b.png", "notes.txt", ".hidden.png", ".git/c.png", "folder.jpg/d.png"):
        obstore.put(memory, f"p/{name}", b"x")
    obstore.put(memory, "pq/other.png", b"x")
    for url in ("s3://bucket/p", "s3://bucket/p/", "S3://bucket/p"):
        left_out = LeftOut()
        found = sorted(expand([url], left_out))
        root = url.rstrip("/")
        assert found == [f"{root}/{ODD}", f"{root}/folder.jpg/d.png", f"{root}/sub/b.png"]
        assert (left_out.files, left_out.hidden) == ({".txt": 1}, 2)
    assert list(expand(["s3://bucket/p/folder.jpg/"])) == ["s3://bucket/p/folder.jpg/d.png"]
    # An object of its own is taken as it is.
    assert list(expand(["gs://bucket/p/x.jpg"])) == ["gs://bucket/p/x.jpg"]
    assert len(list(expand(["az://bucket"]))) == 4


def test_a_path_without_images_is_an_error(memory):
    obstore.put(memory, "p/notes.txt", b"x")
    for url in ("s3://bucket/p", "s3://bucket/nothing/"):
        (found,) = expand([url])
        assert isinstance(found, Unreadable)
        assert str(found.error).startswith(f"{url} holds no image: no object below it is named")


def test_objects_have_the_limits_of_files(memory):
    obstore.put(memory, f"p/{ODD}", CAT)
    url = f"s3://bucket/p/{ODD}"
    assert load_image(url).size == load_image(CAT).size
    for source, options, message in (
        (url, ImageOptions(max_bytes=100), f"{url} is refused: it has more than 100 bytes"),
        (url, ImageOptions(max_pixels=10), f"{url} is refused: .* is more than 10 pixels"),
        ("s3://bucket/none.jpg", ImageOptions(), "s3://bucket/none.jpg does not exist"),
        ("s3://bucket/a//b.jpg", ImageOptions(), "s3://bucket/a//b.jpg cannot be read: "),
    ):
        with pytest.raises(ImageError, match=message.replace("?", r"\?")):
            load_image(source, options)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ClientError, match=r"s3://b/p needs the package obstore.*'\.\[s3\]'"):
        list(expand(["s3://b/p"]))
    with pytest.raises(ImageError, match=r"^s3://b/x.jpg needs the package obstore"):
        load_image("s3://b/x.jpg")


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with s3_server(Path(sys.prefix, "moto")) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        objects._store.cache_clear()
        yield dict(environment)
        objects._store.cache_clear()


def test_bulk_classifies_what_is_in_a_bucket_and_goes_on(server, s3, tmp_path, capsys):
    store = obstore.store.from_url("s3://bucket", client_options={"allow_http": True})
    obstore.put(store, f"photos/{ODD}", CAT)
    obstore.put(store, "photos/bad.png", b"nothing")
    output, url = tmp_path / "answers.jsonl", "s3://bucket/photos"
    command = ["bulk", url, "--output", str(output), "--model", "tiny_onnx", "--url", server.url]
    assert main(command) == 1
    assert f"{output}: 2 images, 1 unreadable" in capsys.readouterr().err
    obstore.put(store, "photos/new.jpg", CAT)
    assert main(command) == 1
    assert "3 images, 2 of them from earlier runs" in capsys.readouterr().err
    lines = {one["image"]: one for one in map(json.loads, output.read_text().splitlines())}
    assert lines.keys() == {f"{url}/{name}" for name in (ODD, "bad.png", "new.jpg")}
    assert lines[f"{url}/{ODD}"]["predictions"] == lines[f"{url}/new.jpg"]["predictions"]
    assert f"{url}/bad.png is not an image" in lines[f"{url}/bad.png"]["error"]


def test_a_store_that_cannot_be_listed_ends_the_run_without_a_record(
    server, s3, tmp_path, capsys, monkeypatch
):
    """The next run lists it again."""
    output = tmp_path / "answers.jsonl"

    def error_of(url: str) -> str:
        command = ["bulk", url, "--output", str(output), "--model", "tiny_onnx"]
        objects._store.cache_clear()
        assert main([*command, "--url", server.url]) == 69
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {url}: ") and "A-SECRET" not in line
        assert output.read_text() == ""
        return line

    assert "there is no such bucket" in error_of("s3://nobody/photos")
    ask(s3["AWS_ENDPOINT_URL"], "POST", "/moto-api/reset-auth", b"0")
    try:
        assert "access is denied" in error_of("s3://bucket/photos")
    finally:
        ask(s3["AWS_ENDPOINT_URL"], "POST", "/moto-api/reset-auth", b"inf")
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        assert "no credentials: set AWS_ACCESS_KEY_ID" in error_of("s3://bucket/photos")
    objects._store.cache_clear()


def test_a_store_that_does_not_answer(monkeypatch):
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:9", "ACCESS_KEY_ID": "k"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "A-SECRET")
    monkeypatch.setattr(objects, "_LISTING_S", 0.3)
    objects._store.cache_clear()
    with pytest.raises(ObjectStoreError, match=r"^s3://bucket/p: the store does not answer"):
        list(expand(["s3://bucket/p"]))
    objects._store.cache_clear()


def test_the_actors_of_ray_get_the_url():
    (block,) = ray_engine._blocks([f"s3://bucket/{ODD}"], 8)
    assert block["image"].to_pylist() == [f"s3://bucket/{ODD}"]
