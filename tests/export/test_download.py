"""Downloads from a real HTTP server on this machine: resumed, cached, and never half-written under their final name."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from export.errors import CheckpointError, SourceUnavailable
from export.weights import NGC_URL, resolve
from export.weights.download import _BLOCK, UrlSource, cache_folder, fetch
from export.weights.seeded import seeded_network
from tests.conftest import QUIET, TINY

CONTENT = bytes(range(256)) * 4000
NAME = "weights.pth.tar"


class FileServer(ThreadingHTTPServer):
    """Serves one content under every path, and misbehaves on request.

    Attributes:
        cut_after: For each coming request, after how many bytes the connection ends; empty for good behaviour.
        ranges: The Range header of every request so far.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.resumable = CONTENT, '"one"', True
        self.cut_after: list[int] = []
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/{NAME}"


class Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if "missing" in self.path:
            self.send_error(404)
            return
        start = 0
        if asked and self.server.resumable and self.headers.get("If-Range") == self.server.etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", self.server.etag)
        self.end_headers()
        if self.server.cut_after:
            body = body[: self.server.cut_after.pop(0)]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def files() -> Iterator[FileServer]:
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_download_is_whole_and_its_digest_is_recorded(files, tmp_path):
    path = fetch(files.url, tmp_path, QUIET)
    assert path.read_bytes() == CONTENT
    assert listing(tmp_path) == [NAME, f"{NAME}.sha256"]
    assert (tmp_path / f"{NAME}.sha256").read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  {NAME}\n"


def test_what_is_cached_is_not_asked_for_again(files, tmp_path):
    fetch(files.url, tmp_path, QUIET)
    fetch(files.url, tmp_path, QUIET)
    assert len(files.ranges) == 1


def test_a_cut_connection_is_resumed_in_the_same_run(files, tmp_path):
    files.cut_after = [3 * _BLOCK, 2 * _BLOCK]
    assert fetch(files.url, tmp_path, QUIET).read_bytes() == CONTENT
    assert files.ranges == [None, f"bytes={3 * _BLOCK}-", f"bytes={5 * _BLOCK}-"]


def test_an_interrupted_download_is_resumed_by_the_next_run(files, tmp_path):
    files.cut_after = [2 * _BLOCK + 5, 0, 0, 0]
    with pytest.raises(SourceUnavailable, match=r"0\.1 MB are kept in .*weights\.pth\.tar\.part: run again to go on from there"):
        fetch(files.url, tmp_path, QUIET)
    assert not (tmp_path / NAME).exists()
    assert fetch(files.url, tmp_path, QUIET).read_bytes() == CONTENT
    assert files.ranges[-1] == f"bytes={2 * _BLOCK}-"
    assert listing(tmp_path) == [NAME, f"{NAME}.sha256"]


def test_a_file_that_changed_meanwhile_is_not_pieced_together(files, tmp_path):
    files.cut_after = [2 * _BLOCK + 5, 0, 0, 0]
    with pytest.raises(SourceUnavailable):
        fetch(files.url, tmp_path, QUIET)
    files.content, files.etag = CONTENT[::-1], '"two"'
    assert fetch(files.url, tmp_path, QUIET).read_bytes() == CONTENT[::-1]


def test_a_server_that_cannot_resume(files, tmp_path):
    files.resumable = False
    files.cut_after = [100_000]
    assert fetch(files.url, tmp_path, QUIET).read_bytes() == CONTENT


def test_a_cached_file_that_was_changed_is_refused(files, tmp_path):
    fetch(files.url, tmp_path, QUIET).write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="has changed since it was downloaded: delete it"):
        fetch(files.url, tmp_path, QUIET)


def test_nothing_at_that_address(files, tmp_path):
    with pytest.raises(SourceUnavailable, match="404 Not Found. Download the file by hand and pass its path to --weights"):
        fetch(files.url.replace("files", "missing"), tmp_path, QUIET)
    assert listing(tmp_path) == []


def test_no_server(tmp_path):
    with pytest.raises(SourceUnavailable, match=r"cannot fetch http://127\.0\.0\.1:1/x: \[Errno 111\] Connection refused"):
        fetch("http://127.0.0.1:1/x", tmp_path, QUIET)


def test_a_full_or_forbidden_cache(files, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SourceUnavailable, match="cannot write"):
        fetch(files.url, tmp_path / "file" / "folder", QUIET)


def test_weights_by_url_end_to_end(files, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = seeded_network(TINY, 4)
    checkpoint = tmp_path / "checkpoint"
    torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, checkpoint)
    files.content = checkpoint.read_bytes()
    source = resolve(files.url)
    digest = hashlib.sha256(files.content).hexdigest()
    assert source.identity(QUIET) == digest
    loaded, provenance = source.load(TINY, QUIET)
    assert (provenance.kind, provenance.location, provenance.sha256, provenance.trained) == ("url", files.url, digest, True)
    assert torch.equal(loaded.fc.weight, network.fc.weight)
    assert (tmp_path / "hub" / "checkpoints" / NAME).exists()


def test_ngc_is_nvidias_file_in_torchs_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hub" / "checkpoints"
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "torch" / "hub" / "checkpoints"
    assert cache_folder() == type(tmp_path)(torch.hub.get_dir()) / "checkpoints"
    assert resolve("ngc") == UrlSource(NGC_URL, kind="ngc")
    assert NGC_URL.endswith("/seresnext101_32x4d_pyt_amp/versions/20.06.0/files/nvidia_se-resnext101-32x4d_200821.pth.tar")
