"""Serving a repository in an object store, with a real S3 server and a real tritonserver."""

from __future__ import annotations

import hashlib
import sys
from contextlib import ExitStack
from pathlib import Path

import obstore.store
import pytest

from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.export import operations
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.sharing import opened
from seresnext101_triton.server import cli, syncing
from seresnext101_triton.server.keeping import KeptServer
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.ngc import _credentials, triton_url
from seresnext101_triton.server.store import Store
from seresnext101_triton.server.syncing import folder_of
from tests.conftest import FREE_PORTS, QUIET, tiny_request
from tests.stores import s3_server
from tests.waiting import until

MODEL = "tiny_torchscript"
URL = "s3://bucket/models"


@pytest.fixture(scope="module")
def store_server():
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def s3(store_server, tmp_path_factory):
    environment = store_server.enter_context(s3_server(Path(sys.prefix, "moto")))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        with opened(URL) as place:
            for seed in (1, 2):
                export(tiny_request(place.folder, weights=f"seeded:{seed}"), QUIET)
        yield environment


def test_the_command_line_serves_a_url_and_names_it_in_errors(s3, capsys):
    arguments = ["--repository", URL, "--model", "nobody"]
    assert cli.main(arguments) == 1
    assert f"error: {URL} holds no exported model nobody" in capsys.readouterr().err
    assert cli.main(["--repository", "s3://nobody/models"]) == 73
    assert "there is no such bucket" in capsys.readouterr().err


def test_the_image_reads_the_store_itself(s3, capsys, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda program: None)
    assert cli.main(["--repository", URL, "--ngc"]) == 69
    line = capsys.readouterr().out
    endpoint = s3["AWS_ENDPOINT_URL"]
    assert f"--model-repository=s3://{endpoint}/bucket/models" in line
    assert f"--load-model={MODEL}" in line and "--volume" not in line
    assert "--env=AWS_SECRET_ACCESS_KEY" in line and "A-SECRET" not in line


def test_an_object_goes_into_a_file_with_its_digest(tmp_path):
    store = Store("s3://bucket/models")
    store._store = obstore.store.MemoryStore()
    content = bytes(range(256)) * 100_000  # some blocks
    store.write("a/model.onnx", content)
    into = tmp_path / "model.onnx"
    digest = hashlib.sha256(content).hexdigest()
    assert store.digest("a/model.onnx", into) == digest and into.read_bytes() == content
    assert store.digest("a/model.onnx") == digest
    store.remove("a/model.onnx")
    store.remove("a/model.onnx")
    assert store.digest("a/model.onnx", into) == "" and store.read("a/model.onnx") is None


def test_urls_as_triton_reads_them(monkeypatch):
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert triton_url("s3://bucket/models") == "s3://bucket/models"
    assert triton_url("gs://bucket/models") == "gs://bucket/models"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://minio.example:9000/")
    assert triton_url("s3://bucket/models") == "s3://https://minio.example:9000/bucket/models"
    with pytest.raises(UsageError, match="az://"):
        triton_url("az://container/models")


def test_the_image_gets_the_credentials_that_are_there(monkeypatch, tmp_path):
    """By their names: no line shows a value."""
    of_amazon = ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "DEFAULT_REGION"]
    names = [f"AWS_{name}" for name in of_amazon]
    for name in (*names, "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    assert list(_credentials()) == []
    for name in names:
        monkeypatch.setenv(name, "A-SECRET")
    assert list(_credentials()) == [f"--env={name}" for name in names]
    monkeypatch.setenv(names[0], "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "key.json")
    assert list(_credentials()) == [
        *(f"--env={name}" for name in names[1:]),
        f"--volume={tmp_path}/key.json:/credentials.json:ro",
        "--env=GOOGLE_APPLICATION_CREDENTIALS=/credentials.json",
    ]


def test_a_server_follows_what_is_promoted(s3, store_server, monkeypatch):
    """It has only what it serves, goes over to another version, and stays where that is damaged.

    At the end the store is down, so that no test of this module may follow.
    """
    monkeypatch.setattr(syncing, "_LOOK_S", 0.1)
    said: list[str] = []

    def serves(version: int) -> bool:
        kept.look()
        ready = [state for state in kept.server.control.index() if state.state == "READY"]
        return [state.version for state in ready] == [str(version)]

    with folder_of(URL, (), follow=True, say=said.append) as folder:
        assert not (folder / MODEL / "1" / "model.pt").exists()
        kept = KeptServer(Server(folder, ports=FREE_PORTS, follow=True), said.append)
        kept.start()
        try:
            assert until(kept.is_up)
            with opened(URL) as place:
                switch = operations.roll_back(place.folder, MODEL)
                assert (switch.version, switch.servers, switch.is_shared) == (1, (), True)
                assert until(lambda: serves(1))
                assert operations.prune(place.folder, 1)[0].kept == (1, 2)
                whole = Store(URL).read(f"{MODEL}/2/model.pt")
                assert whole
                operations.promote(place.folder, MODEL)
                assert until(lambda: serves(2))
                (folder / MODEL / "1" / "model.pt").unlink()  # it is not known here any more
                Store(URL).write(f"{MODEL}/1/model.pt", b"half")
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(operations, "check_intact", lambda folder: "")
                    operations.roll_back(place.folder, MODEL)
            assert until(lambda: any("is not the file that was published" in it for it in said))
            assert serves(2)
            store_server.close()
            assert until(lambda: any("the store does not answer" in it for it in said))
            assert serves(2)
        finally:
            kept.stop()
