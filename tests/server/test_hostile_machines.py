"""Machines on which a server cannot run: one line at once, and nothing is left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from seresnext101_triton.client.connection import Connection
from seresnext101_triton.server import cli, workspace
from seresnext101_triton.server.errors import NothingToServe, ServerError, WorkspaceError
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.models import served_models
from seresnext101_triton.server.ports import Ports, listens, owner
from seresnext101_triton.server.registry import Registration
from tests.conftest import FREE_PORTS, onnx_convolution, write_model
from tests.export.test_repository import mounted
from tests.server.launching import DEADLINE_S, Launcher, launcher

CONVOLUTION = 'platform: "onnxruntime_onnx" instance_group { kind: KIND_CPU count: 1 }'
FREE = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository with one small model, quick to load."""
    repository = tmp_path / "models"
    write_model(repository, "convolution", CONVOLUTION, {"model.onnx": onnx_convolution((3, 4, 4))})
    return repository


def one_line(repository: Path, folder: Path | None = None, *more: str) -> tuple[int, str]:
    """The exit code and the error of `python -m server` with a temporary folder."""
    environment = os.environ | ({"TMPDIR": str(folder)} if folder else {})
    result = subprocess.run(
        [sys.executable, "-m", "server", "--repository", str(repository), *FREE, *more],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    # The model has no manifest, which is said too.
    lines = [line for line in result.stderr.splitlines() if not line.startswith("not checked")]
    assert len(lines) == 1, result.stderr
    return result.returncode, lines[0]


def test_a_temporary_folder_with_a_blank_in_its_path(small, tmp_path):
    folder = tmp_path / "my files"
    folder.mkdir()
    code, line = one_line(small, folder)
    assert code == 73 and "has a blank in its path" in line and "$TMPDIR" in line
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [("noexec,size=64m", "it is mounted noexec"), ("size=1m", "No space left on device")],
)
def test_a_temporary_folder_that_holds_no_program(small, tmp_path, options, words):
    folder = tmp_path / "small"
    with mounted(folder, options):
        code, line = one_line(small, folder)
        assert code == 73 and words in line and "$TMPDIR" in line
        assert list(folder.iterdir()) == []


def test_a_machine_with_little_shared_memory(tmp_path):
    folder = tmp_path / "shm"
    with mounted(folder, "size=1m"):
        with pytest.raises(
            WorkspaceError, match="has 1 MiB of shared memory left.*least 32 MiB.*=1g"
        ):
            workspace.check_shared_memory(folder)
    with mounted(folder, "size=32m"):
        workspace.check_shared_memory(folder)
        (folder / "region").write_bytes(b"x")
        with pytest.raises(WorkspaceError, match="has 32 MiB of shared memory left"):
            workspace.check_shared_memory(folder)
    with pytest.raises(WorkspaceError, match="nowhere cannot be used"):
        workspace.check_shared_memory(tmp_path / "nowhere")


def test_a_folder_for_keys_that_others_could_write(small, tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv("SERESNEXT101_RUN_FOLDER", str(shared))
    for mode in (0o777, 0o720, 0o702):
        shared.chmod(mode)
        with pytest.raises(ServerError, match="in which only this user can write"):
            Registration()
    shared.chmod(0o755)
    Registration().remove()
    monkeypatch.setenv("SERESNEXT101_RUN_FOLDER", str(tmp_path / "a" / "b"))
    with pytest.raises(ServerError, match="cannot hold the server's key"):
        Registration()


def test_a_model_with_a_blank_in_its_name(small, tmp_path):
    write_model(small, "my model", CONVOLUTION, {"model.onnx": b""})
    code, line = one_line(small)
    assert code == 1 and "blank in its name" in line and "--model NAME" in line
    assert [folder.name for folder in served_models(small, ["convolution"])] == ["convolution"]


def test_a_folder_that_cannot_be_read_is_left_out_with_a_note():
    """As `lost+found` on a file system of its own. The check runs as a user without rights."""
    notes: list[str] = []
    effective = os.geteuid()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own is closed to others
        repository = Path(folder)
        repository.chmod(0o755)
        write_model(repository, "convolution", CONVOLUTION, {"model.onnx": b""})
        secret = repository / "lost+found"
        secret.mkdir(mode=0o000)
        if not effective:
            os.seteuid(65534)
        try:
            served = served_models(repository, note=notes.append)
            with pytest.raises(NothingToServe, match="cannot be read"):
                served_models(secret)
        finally:
            os.seteuid(effective)
    assert [model.name for model in served] == ["convolution"]
    assert notes == [f"left out: {secret} cannot be read (Permission denied)"]


@pytest.mark.parametrize("address", ["::1", "[::1]", "::"])
def test_ipv6(small, address):
    """A machine without IPv6 says so."""
    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::1", 0))
    except OSError:
        code, line = one_line(small, None, "--address", address)
        assert code == 1 and "cannot listen on [::" in line
        return
    with Server(small, ports=FREE_PORTS, address=address) as server:
        assert server.url == f"[::1]:{server.ports.grpc}"
        for url in (server.url, f"http://[::1]:{server.ports.http}"):
            with Connection(url) as connection:
                assert connection.ready_models() == ["convolution"]


def test_who_listens_on_a_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        assert owner(port) is None and not listens(os.getpid(), port)
        listening.listen()
        assert owner(port) == os.getpid() and listens(os.getpid(), port)
        assert not listens(os.getppid(), port)
        with pytest.raises(ServerError, match=f"process {os.getpid()} does"):
            Ports(grpc=port, http=0, metrics=0).resolve("127.0.0.1")


def test_of_two_launchers_on_the_same_ports_one_serves(small, tmp_path):
    """The second one knows that the server that answers is not its own."""
    other = tmp_path / "other"
    write_model(other, "foreign", CONVOLUTION, {"model.onnx": onnx_convolution((3, 4, 4))})
    ports = FREE_PORTS.resolve("127.0.0.1")
    launchers = [Launcher(repository, ports=ports) for repository in (small, other)]
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not (ended := [each for each in launchers if each.process.poll() is not None]):
            assert time.monotonic() < deadline, "both of them run"
            time.sleep(0.05)
        (loser,) = ended
        (winner,) = (each for each in launchers if each is not loser)
        winner.expect("gRPC ")
        assert loser.process.returncode == 1
        loser.expect(f"cannot listen on 127.0.0.1:{ports.grpc}")
        assert not any(line.endswith(": ready") for line in loser.lines)
        assert winner.end() == 0
    finally:
        for each in launchers:
            each.process.kill()
            each.process.wait()


def test_tls(small, tmp_path):
    """gRPC takes TLS, and HTTP is for this machine only; a client without the authority is told."""
    import trustme

    from seresnext101_triton.client.errors import ServerUnreachable
    from seresnext101_triton.client.transport import Tls, TransportOptions

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "certificate.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    files = [
        "--tls-cert",
        str(tmp_path / "certificate.pem"),
        "--tls-key",
        str(tmp_path / "key.pem"),
    ]
    with launcher(small, *files) as started:
        url = started.launch().url
        assert url.startswith("grpcs://127.0.0.1:")
        trusted = TransportOptions(tls=Tls(tmp_path / "ca.pem"))
        with Connection(url, trusted) as connection:
            assert connection.ready_models() == ["convolution"]
        with Connection(url, TransportOptions(retries=0)) as connection:
            with pytest.raises(ServerUnreachable, match="not trusted"):
                connection.ready_models()
    assert cli.main(["--repository", str(small), *FREE, "--tls-ca", str(tmp_path / "ca.pem")]) == 2
