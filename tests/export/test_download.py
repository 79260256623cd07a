"""Downloads from a real HTTP server on this machine.

They are resumed and cached, and an incomplete file never has its final name.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import trustme

from seresnext101_triton.export.errors import CheckpointError, SourceUnavailable
from seresnext101_triton.export.weights import NGC_URL, download, resolve
from seresnext101_triton.export.weights.address import cache_name, digests, public
from seresnext101_triton.export.weights.download import _BLOCK, UrlSource, cache_folder, fetch
from seresnext101_triton.export.weights.seeded import seeded_network
from tests.conftest import QUIET, TINY
from tests.export.test_repository import mounted
from tests.waiting import until


def checkpoint(seed: int) -> bytes:
    """The content of a checkpoint of 1 MB, of no network in particular."""
    file = io.BytesIO()
    torch.save({"weight": torch.rand(256_000, generator=torch.Generator().manual_seed(seed))}, file)
    return file.getvalue()


CONTENT, OTHER = checkpoint(1), checkpoint(2)


class FileServer(ThreadingHTTPServer):
    """Serves one content under every path, and misbehaves on request.

    Attributes:
        cut_after: For each coming request, the number of bytes after which the connection is cut.
            Empty: no connection is cut.
        ranges: The Range header of every request so far.
        headers: What every answer has besides.
        with_length: Whether answers tell their length.
        pause: While it is not set, bodies wait after their first bytes.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.resumable = CONTENT, '"one"', True
        self.cut_after: list[int] = []
        self.ranges: list[str | None] = []
        self.headers: dict[str, str] = {}
        self.with_length = True
        self.pause = threading.Event()
        self.pause.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/weights.pth.tar"


class Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if "missing" in self.path:
            self.send_error(404)
            return
        if "redirect" in self.path:
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2] or self.path)
            self.end_headers()
            return
        start = 0
        if asked and self.server.resumable and self.headers.get("If-Range") == self.server.etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        if self.server.with_length:
            self.send_header("Content-Length", str(len(body)))
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.server.cut_after:
            body = body[: self.server.cut_after.pop(0)]
        self.wfile.write(body[:100])
        self.server.pause.wait()
        self.wfile.write(body[100:])

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


def name_of(url: str) -> str:
    return f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-weights.pth.tar"


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_download_is_whole_and_its_digest_is_recorded(files, tmp_path):
    path = fetch(files.url, tmp_path, QUIET)
    assert path.read_bytes() == CONTENT
    name = name_of(files.url)
    assert listing(tmp_path) == [name, f"{name}.sha256"]
    assert (
        tmp_path / f"{name}.sha256"
    ).read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  {name}\n"


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
    with pytest.raises(
        SourceUnavailable,
        match=r"0\.1 MB are kept in .*weights\.pth\.tar\.part: run again to go on from there",
    ):
        fetch(files.url, tmp_path, QUIET)
    assert listing(tmp_path) == [f"{name_of(files.url)}.part", f"{name_of(files.url)}.part.version"]
    assert fetch(files.url, tmp_path, QUIET).read_bytes() == CONTENT
    assert files.ranges[-1] == f"bytes={2 * _BLOCK + 5}-"
    assert listing(tmp_path) == [name_of(files.url), f"{name_of(files.url)}.sha256"]


def test_a_file_that_changed_meanwhile_is_not_pieced_together(files, tmp_path):
    files.cut_after = [2 * _BLOCK + 5, 0, 0, 0]
    with pytest.raises(SourceUnavailable):
        fetch(files.url, tmp_path, QUIET)
    files.content, files.etag = OTHER, '"two"'
    assert fetch(files.url, tmp_path, QUIET).read_bytes() == OTHER


def test_a_server_that_cannot_resume(files, tmp_path):
    files.resumable = False
    files.cut_after = [100_000]
    assert fetch(files.url, tmp_path, QUIET).read_bytes() == CONTENT


def test_a_cached_file_that_was_changed_is_refused(files, tmp_path):
    fetch(files.url, tmp_path, QUIET).write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="has changed since it was downloaded: delete it"):
        fetch(files.url, tmp_path, QUIET)


def test_nothing_at_that_address(files, tmp_path):
    with pytest.raises(
        SourceUnavailable,
        match="404 Not Found. Download the file by hand and pass its path as `weights`",
    ):
        fetch(files.url.replace("files", "missing"), tmp_path, QUIET)
    assert listing(tmp_path) == []


def test_no_server(tmp_path):
    with pytest.raises(
        SourceUnavailable,
        match=r"cannot fetch http://127\.0\.0\.1:1/x: \[Errno 111\] Connection refused",
    ):
        fetch("http://127.0.0.1:1/x", tmp_path, QUIET)


def test_a_full_or_forbidden_cache(files, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SourceUnavailable, match="cannot write"):
        fetch(files.url, tmp_path / "file" / "folder", QUIET)


def test_weights_by_url_end_to_end(files, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = seeded_network(TINY, 4)
    path = tmp_path / "checkpoint"
    torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, path)
    files.content = path.read_bytes()
    source = resolve(files.url)
    digest = hashlib.sha256(files.content).hexdigest()
    assert source.identity(QUIET) == digest
    loaded, provenance = source.load(TINY, QUIET)
    assert (provenance.kind, provenance.location, provenance.sha256, provenance.trained) == (
        "url",
        files.url,
        digest,
        True,
    )
    assert torch.equal(loaded.fc.weight, network.fc.weight)
    assert listing(tmp_path / "hub" / "checkpoints") == [
        name_of(files.url),
        f"{name_of(files.url)}.sha256",
    ]


def test_ngc_is_nvidias_file_in_torchs_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hub" / "checkpoints"
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "torch" / "hub" / "checkpoints"
    assert cache_folder() == type(tmp_path)(torch.hub.get_dir()) / "checkpoints"
    assert resolve("ngc") == UrlSource(NGC_URL, kind="ngc")
    assert NGC_URL.endswith(
        "/seresnext101_32x4d_pyt_amp/versions/20.06.0/files/nvidia_se-resnext101-32x4d_200821.pth.tar"
    )


def test_two_urls_that_end_alike_do_not_share_an_entry(files, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    one, other = files.url, files.url.replace("/files/", "/others/")
    assert fetch(one, tmp_path, QUIET).read_bytes() == CONTENT
    files.content, files.etag = OTHER, '"two"'
    assert fetch(other, tmp_path, QUIET).read_bytes() == OTHER
    assert fetch(other + "?version=3", tmp_path, QUIET) not in (
        fetch(one, tmp_path, QUIET),
        fetch(other, tmp_path, QUIET),
    )
    assert fetch(one, tmp_path, QUIET).read_bytes() == CONTENT


def test_what_torch_hub_has_downloaded_is_found(tmp_path):
    (tmp_path / "nvidia_se-resnext101-32x4d_200821.pth.tar").write_bytes(CONTENT)
    assert fetch(NGC_URL, tmp_path, QUIET).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "url",
    [
        "http://h/..",
        "http://h/a/..%2f..%2fx",
        "http://h/",
        "http://h/%00",
        f"http://h/{'x' * 300}",
        "http://h/.part",
    ],
)
def test_names_in_the_cache_are_plain(url):
    name = cache_name(url)
    assert len(name) < 200 and "/" not in name and name.isprintable() and not name.startswith(".")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html><html>Log in</html>", "it is a web page (HTML)"),
        (CONTENT[:-1000], "it is damaged, truncated or no checkpoint"),
        (b"", "it is empty (0 bytes)"),
        (b'{"error": 1}', "it is JSON"),
    ],
)
def test_what_is_no_checkpoint_is_not_kept(files, tmp_path, content, reason):
    """Nor is a body that was cut where the server does not tell a length."""
    files.content, files.with_length = content, False
    with pytest.raises(SourceUnavailable) as error:
        fetch(files.url, tmp_path, QUIET)
    assert f"what came from {files.url} is not kept: {reason}" in str(error.value)
    assert [name for name in listing(tmp_path) if "version" not in name] == []
    files.content = CONTENT
    assert fetch(files.url, tmp_path, QUIET).read_bytes() == CONTENT


def test_what_others_left_in_the_cache_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = cache_folder() / "nvidia_se-resnext101-32x4d_200821.pth.tar"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"<html></html>")
    with pytest.raises(
        CheckpointError, match=rf"is a web page \(HTML\).* Delete {path} to download it again"
    ):
        resolve("ngc").load(TINY, QUIET)
    path.write_bytes(CONTENT)
    with pytest.raises(CheckpointError, match="does not fit this network") as error:
        resolve("ngc").load(TINY, QUIET)
    assert "Delete" not in str(error.value)


SHA256, MD5 = (
    base64.b64encode(hashlib.new(name, CONTENT).digest()).decode() for name in ("sha256", "md5")
)
DIGESTS = {
    "Repr-Digest": f"sha-256=:{SHA256}:",
    "Content-Digest": f"sha-256=:{SHA256}:",
    "Digest": f"SHA-256={SHA256},unixsum=3",
    "Content-MD5": MD5,
    "x-goog-hash": f"crc32c=AAAAAA==,md5={MD5}",
    "x-amz-checksum-sha256": SHA256,
}


@pytest.mark.parametrize("header", DIGESTS)
def test_digests_of_the_server_are_held_against_what_came(files, tmp_path, header):
    files.headers = {header: DIGESTS[header]}
    assert fetch(files.url, tmp_path / "right", QUIET).read_bytes() == CONTENT
    files.content = OTHER
    with pytest.raises(
        SourceUnavailable, match="is not kept: its (sha256|md5) is .*, and the server says"
    ):
        fetch(files.url, tmp_path / "wrong", QUIET)
    assert listing(tmp_path / "wrong") == []


def test_what_is_no_digest_of_the_file_is_not_used(files, tmp_path):
    files.headers = {
        "x-amz-checksum-sha256": f"{SHA256}-2",
        "Digest": "SHA-256=nonsense",
        "x-goog-hash": f"md5={SHA256}",
        "Content-MD5": "",
    }
    files.content, files.etag = OTHER, f'"{hashlib.md5(CONTENT).hexdigest()}"'
    assert fetch(files.url, tmp_path, QUIET).read_bytes() == OTHER
    assert (
        digests({"x-goog-hash": f"md5={MD5}", "x-goog-stored-content-encoding": "gzip"}, whole=True)
        == {}
    )
    assert digests({"Content-MD5": MD5, "Content-Digest": f"sha-256=:{SHA256}:"}, whole=False) == {}


def test_a_body_that_the_server_compresses(files, tmp_path):
    files.content, files.headers = gzip.compress(CONTENT, 1), {"Content-Encoding": "gzip"}
    assert fetch(files.url, tmp_path, QUIET).read_bytes() == CONTENT


@pytest.mark.parametrize("length", ["abc", "-5", ""])
def test_a_length_that_is_none(files, tmp_path, length):
    files.with_length, files.headers = False, {"Content-Length": length}
    assert fetch(files.url, tmp_path, QUIET).read_bytes() == CONTENT


def test_another_part_than_was_asked_for(files, tmp_path):
    """A proxy answers with another range: the part is discarded and the whole file requested."""
    files.cut_after = [2 * _BLOCK, 0, 0, 0]
    with pytest.raises(SourceUnavailable):
        fetch(files.url, tmp_path, QUIET)
    files.headers = {"Content-Range": f"bytes 7-{len(CONTENT)}/{len(CONTENT)}"}
    assert fetch(files.url, tmp_path, QUIET).read_bytes() == CONTENT
    assert files.ranges[-1] is None


def test_redirects_lead_to_http_servers_only(files, tmp_path):
    base = f"http://127.0.0.1:{files.server_port}/redirect?"
    assert fetch(f"{base}{files.url}", tmp_path, QUIET).read_bytes() == CONTENT
    with pytest.raises(SourceUnavailable, match=r"it redirects to what is no http\(s\) URL"):
        fetch(f"{base}file:///etc/passwd", tmp_path, QUIET)
    with pytest.raises(SourceUnavailable, match="it redirects again and again"):
        fetch(base, tmp_path, QUIET)
    assert len(listing(tmp_path)) == 2


def test_no_redirect_from_https_to_http(tmp_path, monkeypatch):
    with FileServer() as plain, FileServer() as secure:
        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        for server in (plain, secure):
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"https://127.0.0.1:{secure.server_port}/redirect?{plain.url}"
        with pytest.raises(SourceUnavailable, match="TLS: .*certificate"):
            fetch(url, tmp_path / "cache", QUIET)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        with pytest.raises(SourceUnavailable, match="it redirects from https to http"):
            fetch(url, tmp_path / "cache", QUIET)
        assert (
            fetch(
                url.replace("redirect?" + plain.url, "x.pth"), tmp_path / "cache", QUIET
            ).read_bytes()
            == CONTENT
        )
        assert plain.ranges == []
        plain.shutdown(), secure.shutdown()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@host/x.pth#part", "https://host/x.pth"),
        (
            "https://host/x.pth?X-Amz-Signature=abc&id=3",
            "https://host/x.pth?X-Amz-Signature=***&id=3",
        ),
        ("https://host/x.pth?sv=2024&sig=abc&se=1", "https://host/x.pth?sv=***&sig=***&se=***"),
        ("https://host/x.pth?download=true", "https://host/x.pth?download=true"),
        (f"https://host/x.pth?a={'b' * 50}", "https://host/x.pth?a=***"),
        (
            "https://host/x.pth?access_token=s&Policy=p",
            "https://host/x.pth?access_token=***&Policy=***",
        ),
    ],
)
def test_what_lets_others_in_is_not_shown(url, shown):
    assert public(url) == shown


def test_secrets_are_in_no_message_and_no_manifest(files, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for address in (f"127.0.0.1:{files.server_port}/missing", "127.0.0.1:1/x", "host.invalid/x"):
        with pytest.raises(SourceUnavailable) as error:
            resolve(f"http://user:hunter2@{address}?token=hunter2").load(TINY, QUIET)
        assert "hunter2" not in str(error.value)
    path = tmp_path / "checkpoint"
    torch.save(seeded_network(TINY, 4).state_dict(), path)
    files.content = path.read_bytes()
    secret = files.url.replace("http://", "http://user:hunter2@") + "?token=hunter2"
    assert resolve(secret).load(TINY, QUIET)[1].location == f"{files.url}?token=***"


def test_two_exports_that_fetch_one_url_at_once(files, tmp_path):
    files.pause.clear()
    found: list[bytes] = []
    both = [
        threading.Thread(
            target=lambda: found.append(fetch(files.url, tmp_path, QUIET).read_bytes())
        )
        for _ in range(2)
    ]
    for thread in both:
        thread.start()
    while not files.ranges:
        time.sleep(0.01)
    files.pause.set()
    for thread in both:
        thread.join()
    assert found == [CONTENT, CONTENT]
    assert len(files.ranges) == 1


def test_who_waits_for_the_download_of_another_export_is_told(tmp_path, monkeypatch):
    notes: list[str] = []
    monkeypatch.setattr(QUIET, "note", lambda text, style=None: notes.append(text))
    part, found = tmp_path / "x.part", []

    def wait() -> None:
        with download._locked(part, "https://user:secret@host/x.pth", QUIET) as unfinished:
            found.append(unfinished)

    with download._locked(part, "https://host/x.pth", QUIET) as unfinished:
        assert unfinished and notes == []
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert until(lambda: bool(notes))
        assert found == []
        part.write_bytes(b"whole")
        part.rename(tmp_path / "x.pth")
    waiting.join()
    assert found == [False]
    (note,) = notes
    assert "another export is downloading https://" in note and "secret" not in note


def test_a_server_that_drips(tmp_path, monkeypatch):
    """Every packet comes within the socket's time, and the whole never."""
    monkeypatch.setattr(download, "_ANSWER_S", 0.5)
    monkeypatch.setattr(download, "_WINDOW_S", 0.5)
    monkeypatch.setattr(download, "_ATTEMPTS", 1)
    for head, reason in (
        (b"HTTP/1.1 200 OK\r\n\r\n", "it comes too slowly"),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", "no answer within 0.5 s"),
    ):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            finished = threading.Event()

            def drip(listener=listener, head=head, finished=finished):
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.sendall(head)
                    while not finished.wait(0.05):
                        connection.sendall(b"x")

            thread = threading.Thread(target=drip)
            thread.start()
            try:
                with pytest.raises(SourceUnavailable, match=reason):
                    fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/x.pth", tmp_path, QUIET)
            finally:
                finished.set()
                thread.join()


def test_a_length_beyond_all_checkpoints(files, tmp_path):
    files.with_length, files.headers = False, {"Content-Length": str(9 << 30)}
    with pytest.raises(SourceUnavailable, match=rf"{files.url} gives more than 8 GB: that is no"):
        fetch(files.url, tmp_path, QUIET)


def test_a_body_without_an_end(files, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_MAX_BYTES", 500_000)
    with pytest.raises(SourceUnavailable, match="that is no checkpoint of this network"):
        fetch(files.url, tmp_path, QUIET)


def test_a_full_disk_keeps_what_came(files, tmp_path):
    with mounted(tmp_path / "disk", "size=300k"):
        with pytest.raises(SourceUnavailable, match="cannot write .*: No space left on device"):
            fetch(files.url, tmp_path / "disk", QUIET)


def test_a_digest_record_that_is_damaged(files, tmp_path):
    path = fetch(files.url, tmp_path, QUIET)
    for content in (b"", b"\xff\xfe"):
        path.with_name(path.name + ".sha256").write_bytes(content)
        with pytest.raises(
            CheckpointError, match="has changed since it was downloaded: delete it and"
        ):
            fetch(files.url, tmp_path, QUIET)
