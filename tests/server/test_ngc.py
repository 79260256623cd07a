"""The `docker run` line of NVIDIA's image: what it says, and whether docker takes it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import trustme

from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.client.launches import FOLDER_VARIABLE, Launch
from seresnext101_triton.client.transport import Tls
from seresnext101_triton.server import ENGINE_CACHE, cli
from seresnext101_triton.server.ngc import Container, engine_folder
from seresnext101_triton.server.ports import Ports
from tests.conftest import write_model

TLS_FLAGS = {"ca": "ca", "cert": "certificate", "key": "key"}
# What `docker create --help` printed, Docker 28.2.2.
HELP = Path(__file__).parents[1] / "data" / "docker-create-help.txt"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository with one model, which nobody loads."""
    write_model(tmp_path / "models", "convolution", "", {"model.onnx": b"nothing"})
    return tmp_path / "models"


@pytest.fixture
def certificate(tmp_path: Path) -> Tls:
    """A certificate of an authority, and the key."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    files = [tmp_path / name for name in ("ca.pem", "certificate.pem", "key.pem")]
    authority.cert_pem.write_to_path(str(files[0]))
    issued.cert_chain_pems[0].write_to_path(str(files[1]))
    issued.private_key_pem.write_to_path(str(files[2]))
    return Tls(*files)


def without(*programs: str):
    """`shutil.which` of a machine without some programs."""
    return lambda name: None if name in programs else f"/usr/bin/{name}"


def test_the_line_for_a_machine_without_docker_and_gpu(small, monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", without("docker", "nvidia-smi"))
    assert cli.main(["--repository", str(small), "--ngc"]) == 69
    captured = capsys.readouterr()
    line = shlex.split(captured.out)
    assert line[:3] == ["docker", "run", "--rm"]
    for option in (
        f"--user={os.getuid()}:{os.getgid()}",
        "--read-only",
        "--tmpfs=/tmp:size=1g,mode=1777",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--shm-size=1g",
        "--publish=127.0.0.1:8001:8001",
        "--publish=127.0.0.1:8000:8000",
        "--publish=127.0.0.1:8002:8002",
        f"--volume={small}/convolution:/models/convolution:ro",
    ):
        assert option in line
    rule = r"=model-repository,shared-memory,logging,trace:launch-key=[0-9a-f]{32}"
    assert re.fullmatch("--grpc-restricted-protocol" + rule, line[-2])
    assert re.fullmatch("--http-restricted-api" + rule, line[-1])
    image = line.index("tritonserver") - 1
    release = re.fullmatch(r"nvcr\.io/nvidia/tritonserver:(\d+\.\d+)-py3", line[image])
    assert release and tuple(map(int, release[1].split("."))) >= (26, 7)
    assert not any(option.startswith("--gpus") for option in line)
    assert "docker is not installed" in captured.err


def test_the_line_of_a_machine_with_a_gpu(small, monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", without("docker"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(small.parent / "cache"))
    assert cli.main(["--repository", str(small), "--ngc", "--release", "26.08"]) == 69
    line = capsys.readouterr().out
    assert "--gpus=all" in line
    assert f"--volume={small.parent}/cache/seresnext101-triton/engines:{ENGINE_CACHE}" in line
    assert "nvcr.io/nvidia/tritonserver:26.08-py3" in line
    assert not engine_folder().exists()
    assert cli.main(["--repository", str(small), "--ngc", "--release", "1.2"]) == 2
    assert "1.2 is not a known release" in capsys.readouterr().err


@pytest.mark.parametrize("programs", [["docker"], ["docker", "nvidia-smi"]])
def test_clients_find_a_container_while_it_runs(small, certificate, monkeypatch, capfd, programs):
    """A script in the place of docker prints the file of the launch, and ends with a code."""
    folder = small.parent / "bin"
    folder.mkdir()
    for name in programs:
        (folder / name).write_text(f"#!/bin/sh\ncat {small.parent}/launches/*.json; exit 7\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    monkeypatch.setenv(FOLDER_VARIABLE, str(small.parent / "launches"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(small.parent / "cache"))
    ports = ["--grpc-port", "1", "--http-port", "2", "--metrics-port", "3"]
    files = [f"--tls-{name}={getattr(certificate, own)}" for name, own in TLS_FLAGS.items()]
    where = ["--repository", str(small), "--address", "[::1]", "--allow", "trace"]
    assert cli.main([*where, *ports, *files, "--ngc"]) == 7
    line, document = capfd.readouterr().out.splitlines()
    found = json.loads(document)
    assert f"launch-key={found.pop('key')} " in line
    wanted = Launch(
        os.getpid(),
        str(small),
        "::1",
        grpc=1,
        http=2,
        metrics=3,
        key="",
        restricted=("model-repository", "shared-memory", "logging"),
        workspace="",
        shared_memory="",
        tls=True,
        state="ready",
    )
    assert found | {"key": ""} == json.loads(wanted.to_json())
    assert list((small.parent / "launches").iterdir()) == []
    assert engine_folder().is_dir() == ("nvidia-smi" in programs)


def test_where_engines_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert engine_folder() == tmp_path / ".cache/seresnext101-triton/engines"
    monkeypatch.setenv("XDG_CACHE_HOME", "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert engine_folder() == tmp_path / "elsewhere/seresnext101-triton/engines"


def test_an_address_with_brackets_and_a_protocol_that_is_open(small):
    container = Container(small, Ports(1, 2, 3), "[::1]", allow=["logging", "trace"], key="secret")
    line = container.command()
    assert "--publish=[::1]:1:8001" in line and "--publish=[::1]:3:8002" in line
    assert "--http-restricted-api=model-repository,shared-memory:launch-key=secret" in line
    assert "secret" not in repr(container)


@pytest.mark.parametrize(
    ("target", "allow", "told"),
    [
        ("26.03", ["shared-memory"], False),
        ("26.04", ["shared-memory"], True),
        ("26.07", ["trace"], False),
    ],
)
def test_releases_that_refuse_shared_memory_are_told_to_allow_it(small, target, allow, told):
    line = Container(small, Ports(), target=target, allow=allow).command()
    assert ("--allow-client-shm=true" in line) is told


def test_tls_leaves_the_endpoints_without_it_to_this_machine(small, certificate):
    plain = Container(small, Ports()).command()
    assert not any(":/tls/" in argument or "ssl" in argument for argument in plain)
    assert "--publish=[::1]:8000:8000" in Container(small, Ports(), "::", tls=certificate).command()
    line = Container(small, Ports(), address="0.0.0.0", tls=certificate).command()
    assert "--publish=0.0.0.0:8001:8001" in line
    assert "--publish=127.0.0.1:8000:8000" in line and "--publish=127.0.0.1:8002:8002" in line
    for name, place in {"cert": "certificate", "key": "key"}.items():
        assert f"--grpc-server-{name}=/tls/{place}.pem" in line
        assert f"--volume={getattr(certificate, place)}:/tls/{place}.pem:ro" in line
    assert "--grpc-use-ssl-mutual=true" in line and "--grpc-root-cert=/tls/ca.pem" in line
    with pytest.raises(UsageError, match="needs its own certificate"):
        Container(small, Ports(), tls=Tls(certificate.ca)).command()


def docker_options(small: Path, certificate: Tls, monkeypatch) -> list[str]:
    """The options of the longest line: with a GPU and TLS."""
    with monkeypatch.context() as patch:
        patch.setattr("shutil.which", without())
        line = Container(small, Ports(), address="::1", tls=certificate).command()
    return line[2 : line.index("tritonserver")]


def test_docker_has_every_option_of_the_line(small, certificate, monkeypatch):
    known = set(re.findall(r"--[a-z-]+", HELP.read_text()))
    *options, _image = docker_options(small, certificate, monkeypatch)
    names = {option.partition("=")[0] for option in options}
    assert names <= known, f"docker create has no {sorted(names - known)}"
    assert {"--gpus", "--user", "--read-only"} <= names


@pytest.mark.skipif(not shutil.which("docker"), reason="docker's own parser needs its command")
def test_dockers_own_parser_takes_the_line(small, certificate, monkeypatch):
    """Without a daemon, it gets as far as to look for one; a wrong option ends it before."""
    options = docker_options(small, certificate, monkeypatch)

    def create(*more: str) -> str:
        command = ["docker", "--host=unix:///no/such/daemon", "create", *more, *options]
        return subprocess.run(command, capture_output=True, text=True).stderr

    assert "Cannot connect to the Docker daemon" in create()
    assert "unknown flag: --cap-dorp" in create("--cap-dorp=ALL")
