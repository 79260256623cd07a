"""The files of launches: what a client reads from them, and which it does not trust."""

from __future__ import annotations

import fcntl
import json
from dataclasses import replace
from pathlib import Path

import pytest

from seresnext101_triton.client.address import parse
from seresnext101_triton.client.launches import (
    FOLDER_VARIABLE,
    LAUNCH_VARIABLE,
    Launch,
    is_running,
    key_headers,
    launch_at,
    read_launch,
    run_folder,
    running_launches,
)

LAUNCH = Launch(
    pid=1,
    repository="/models",
    address="127.0.0.1",
    grpc=1001,
    http=1000,
    metrics=1002,
    key="secret",
    restricted=("trace", "logging"),
    workspace="/w",
    shared_memory="triton-1-",
    model_restarts={"b": 2, "a": 1},
    server_restarts=3,
)


def written(file: Path, launch: Launch = LAUNCH, mode: int = 0o600) -> Path:
    file.write_text(launch.to_json())
    file.chmod(mode)
    return file


def test_a_file_says_what_was_written(tmp_path):
    file = written(tmp_path / "a.json")
    assert read_launch(file) == replace(LAUNCH, file=file)
    assert LAUNCH.models_folder == Path("/w/models")
    assert LAUNCH.restarts == "server 3, a 1, b 2"
    assert replace(LAUNCH, gateway_restarts=4).restarts == "gateway 4, server 3, a 1, b 2"
    assert replace(LAUNCH, model_restarts={}, server_restarts=0).restarts == "none"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601])
def test_a_file_that_others_can_use_is_not_trusted(tmp_path, mode):
    assert read_launch(written(tmp_path / "a.json", mode=mode)) is None


@pytest.mark.parametrize(
    "change", [{"grpc": ...}, {"restricted": ...}, {"more": 1}], ids=["grpc", "restricted", "more"]
)
def test_a_damaged_file_is_none(tmp_path, change):
    document = json.loads(LAUNCH.to_json()) | change
    text = json.dumps({key: value for key, value in document.items() if value is not ...})
    file = written(tmp_path / "a.json")
    assert read_launch(file)
    file.write_text(text)
    assert read_launch(file) is None
    file.write_text("{")
    assert read_launch(file) is None
    assert read_launch(tmp_path / "b.json") is None


@pytest.mark.parametrize(
    ("address", "host", "http_host"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
        ("::", "[::1]", "[::1]"),
        ("2001:db8::1", "[2001:db8::1]", "[::1]"),
        ("gpu1.example", "gpu1.example", "127.0.0.1"),
    ],
)
def test_where_this_machine_reaches_a_server(address, host, http_host):
    """With TLS, the endpoints without it listen on this machine only."""
    launch = replace(LAUNCH, address=address)
    assert (launch.host, launch.http_host, launch.url) == (host, host, f"{host}:1001")
    launch = replace(launch, tls=True)
    assert (launch.host, launch.http_host) == (host, http_host)
    assert launch.url == f"grpcs://{host}:1001"


@pytest.mark.parametrize(
    ("url", "serves"),
    [
        ("127.0.0.1:1001", True),
        ("localhost:1001", True),
        ("gpu1.example:1001", True),
        ("gpu2.example:1001", False),
        ("gpu1.example:1000", False),
        ("http://gpu1.example:1000", True),
        ("http://gpu1.example:1001", False),
        ("gpu1.example:1002", False),
    ],
)
def test_which_addresses_are_those_of_a_server(url, serves):
    assert replace(LAUNCH, address="GPU1.example").serves(parse(url)) is serves


def test_those_that_run_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.delenv(LAUNCH_VARIABLE, raising=False)
    assert run_folder() == tmp_path
    files = [
        written(tmp_path / f"{name}.json", replace(LAUNCH, grpc=n))
        for n, name in enumerate("abc", 1)
    ]
    for file in files[:2]:
        file.with_suffix(".lock").touch()
    assert not any(map(is_running, files))
    assert running_launches() == []
    with files[0].with_suffix(".lock").open() as one, files[1].with_suffix(".lock").open() as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        fcntl.flock(two, fcntl.LOCK_EX)
        assert [launch.file for launch in running_launches()] == files[:2]
        monkeypatch.setenv(LAUNCH_VARIABLE, str(files[1]))
        assert [launch.file for launch in running_launches()] == [files[1], files[0]]
        assert launch_at(parse("localhost:2")) == replace(LAUNCH, grpc=2, file=files[1])
        assert launch_at(parse("localhost:3")) is None
        assert key_headers(parse("localhost:3")) == {}
        assert list(key_headers(parse("localhost:2")).values()) == ["secret"]
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "none"))
    monkeypatch.delenv(LAUNCH_VARIABLE)
    assert running_launches() == []
