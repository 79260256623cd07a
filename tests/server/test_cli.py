"""What the options of `python -m server` become, without a server."""

from __future__ import annotations

from pathlib import Path

from seresnext101_triton.server import cli
from seresnext101_triton.server.fleet.fleet import Fleet
from seresnext101_triton.server.keeping import KeptServer
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.ports import Ports

FOLDER = Path("model_repository")


def kept(*arguments: str) -> KeptServer | Fleet:
    found = cli._kept(cli._parser().parse_args(arguments), FOLDER, print, print)
    assert isinstance(found, KeptServer | Fleet)
    return found


def server(*arguments: str) -> Server:
    found = kept(*arguments)
    assert isinstance(found, KeptServer)
    return found.server


def test_without_options_it_listens_as_triton_does_on_this_machine_only():
    plain = server()
    assert (plain.ports, plain.address) == (Ports(8001, 8000, 8002), "127.0.0.1")
    assert (plain.repository, list(plain.only)) == (FOLDER, [])
    assert not plain.follow and plain._trace == [] and plain._verbose is False
    assert plain._restricted == ("model-repository", "shared-memory", "logging", "trace")


def test_every_option_reaches_the_server():
    ports = ["--grpc-port", "1", "--http-port", "2", "--metrics-port", "3"]
    told = server(
        *(*ports, "--address", "[::1]", "--model", "a", "--model", "b@2"),
        *("--follow", "--verbose", "--allow", "trace", "--allow", "logging"),
        *("--response-cache", "7"),
    )
    assert (told.ports, told.address) == (Ports(grpc=1, http=2, metrics=3), "::1")
    assert list(told.only) == ["a", "b@2"]
    assert told.follow and told._verbose
    assert told._restricted == ("model-repository", "shared-memory")
    assert any(str(7 << 20) in argument for argument in told._cache) and not server()._cache


def test_several_servers_are_a_fleet():
    assert isinstance(kept("--replicas", "2"), Fleet)
