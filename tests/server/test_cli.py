"""What the options of `python -m server` become, without a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
        *("--response-cache", "7", "--soak", "2.5"),
    )
    assert (told.ports, told.address) == (Ports(grpc=1, http=2, metrics=3), "::1")
    assert list(told.only) == ["a", "b@2"]
    assert told.follow and told.soak_s == 2.5 and told._verbose
    assert told._restricted == ("model-repository", "shared-memory")
    assert any(str(7 << 20) in argument for argument in told._cache) and not server()._cache


def test_several_servers_are_a_fleet_with_the_same_options():
    told = ["--replicas", "2", "--follow", "--verbose", "--model", "a@2", "--allow", "logging"]
    told += ["--soak", "3"]
    traced = ["--trace-url", "http://c:1/v1/traces", "--trace-rate", "7"]
    ports = ["--grpc-port", "1", "--http-port", "2", "--metrics-port", "3", "--address", "[::1]"]
    fleet = kept(*told, *traced, *ports, "--response-cache", "5")
    assert isinstance(fleet, Fleet) and len(fleet._replicas) == 2
    assert (fleet._ports, fleet._address) == (Ports(1, 2, 3), "::1")
    restricted = ("model-repository", "shared-memory", "trace")
    assert fleet._restricted == restricted and fleet._verbose
    for each in fleet._replicas:
        one = each.server
        assert (one.ports, one.address, list(one.only)) == (Ports(0, 0, 0), "127.0.0.1", ["a@2"])
        assert one.follow and one._verbose and one._restricted == restricted
        assert one.soak_s == 3
        assert "--trace-config=rate=7" in one._trace
        assert one._cache == [f"--cache-config=local,size={5 << 20}"]
        assert one._key == fleet._key and len(one._key) == 32 and set(one._cpus) == each.cpus
    plain = kept("--replicas", "1")
    assert isinstance(plain, Fleet) and plain._restricted == (*restricted[:2], "logging", "trace")
    (only,) = plain._replicas
    assert not (only.server.follow or only.server._verbose or only.server._trace)
    assert only.server._cache == [] and list(only.server.only) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--release", "26.07"], "--release is of NVIDIA's image: name it together with --ngc"),
        (["--soak", "0"], "--soak is of versions that come meanwhile: name it together with --fol"),
        (["--image", "x"], "--image is run in Docker: name it together with --ngc"),
        (["--trace-rate", "0"], "--trace-rate is of traces: name their collector with --trace-url"),
        *(
            (["--replicas", "1", flag, "x"], "--replicas and TLS do not go together")
            for flag in ("--tls-cert", "--tls-key", "--tls-ca")
        ),
        *(
            (["--ngc", *words], f"{words[0]} and --ngc do not go together")
            for words in (
                ["--verbose"],
                ["--follow"],
                ["--trace-url", "http://c/x"],
                ["--replicas", "2"],
            )
        ),
        (["--ngc", "--", "true"], "a command and --ngc do not go together"),
    ],
)
@pytest.mark.parametrize("form", ["text", "json"])
def test_options_without_an_effect_are_told_in_the_form_that_was_asked_for(
    capsys, arguments, message, form
):
    assert cli.main(["--log-format", form, *arguments]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    if form == "json":
        document = json.loads(line)
        assert (document["level"], document["source"]) == ("error", "launcher")
        assert document["message"].startswith(message)
    else:
        assert line.startswith(f"error: {message}")
    assert said.out == ""


def test_lines_are_written_in_the_form_that_was_asked_for(capsys):
    for form in ("text", "json"):
        tell, note = cli._writer(cli._parser().parse_args(["--log-format", form]))
        tell("told")
        note("noted")
        said = capsys.readouterr()
        lines = [json.loads(each)["message"] if form == "json" else each.strip() for each in said]
        assert lines == ["told", "noted"]
