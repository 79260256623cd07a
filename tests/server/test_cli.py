"""What the options of `python -m server` become, without a server."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.server import cli
from seresnext101_triton.server.fleet.fleet import Fleet
from seresnext101_triton.server.keeping import KeptServer
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.ports import Ports
from seresnext101_triton.server.tracing import Tracing
from tests.conftest import write_model
from tests.server.programs import COMPLETE, Program

FOLDER = Path("model_repository")
FREE = ["--grpc-port=0", "--http-port=0", "--metrics-port=0"]


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


@pytest.fixture
def program(tmp_path, monkeypatch) -> Program:
    write_model(tmp_path / "models", "m", COMPLETE, {"model.onnx": b"one"})
    return Program.installed(tmp_path, monkeypatch)


def test_a_command_is_run_against_the_server(program, tmp_path, capfd):
    repository = str(tmp_path / "models")
    command = ["sh", "-c", "echo url $TRITON_URL; exit 7"]
    assert cli.main(["--repository", repository, *FREE, "--", *command]) == 7
    loading, ready, where, url = capfd.readouterr().out.splitlines()
    assert (loading, ready) == (f"loading {repository} ...", "  m version 1: ready")
    assert where.startswith(f"gRPC {url.removeprefix('url ')} ")
    assert len(program.starts()) == 1


def test_every_line_is_json_if_it_was_asked_for(program, tmp_path, capfd):
    repository = str(tmp_path / "models")
    program.plan(index=[{"name": "m", "version": "1", "state": "", "reason": "odd"}])
    arguments = ["--repository", repository, *FREE, "--log-format", "json", "--timings"]
    assert cli.main(arguments) == 1
    out, err = (list(map(json.loads, text.splitlines())) for text in capfd.readouterr())
    assert [each["message"] for each in out] == [f"loading {repository} ..."]
    assert err[-1]["message"] == "model 'm' cannot be loaded: odd"
    assert err[-1]["level"] == "error"
    assert any("waiting for the models" in each["message"] for each in err)


def test_ctrl_c_ends_it_also_while_a_repository_is_fetched(monkeypatch, capsys):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seresnext101_triton.server.syncing.folder_of", interrupt)
    assert cli.main([]) == 0
    assert capsys.readouterr().out == "stopped\n"


def test_a_closed_output_is_no_reason_to_end():
    script = "from seresnext101_triton.server.cli import _say; import time\n"
    script += "input(); _say('one'); _say('two'); raise SystemExit(7)"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, stderr=-1)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.communicate(b"\n")[1] == b"" and process.returncode == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            (["--replicas", text], f"it is a number of 1 to 64, not '{text}'")
            for text in ("0", "65", "001", "x", "-1", "\u0663")
        ),
        (["--http-port", "65536"], "a port is a number of 0 to 65535, not '65536'"),
        (["--http-port", "000001"], "a port is a number of 0 to 65535, not '000001'"),
        (["--http-port", "\u0663"], "a port is a number of 0 to 65535"),
        (["--address", " "], "it is empty: name an address of this machine"),
        (["--allow", "x"], "invalid choice: 'x' (choose from "),
    ],
)
def test_values_that_cannot_be_used(capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_the_bounds_of_values():
    options = cli._parser().parse_args(["--replicas", "64", "--http-port", "65535"])
    assert (options.replicas, options.http_port) == (64, 65535)
    assert cli._parser().parse_args(["--http-port", "0"]).http_port == 0
    assert cli._parser().parse_args(["--replicas", "1"]).replicas == 1


def test_traces_and_certificates():
    def options(*arguments: str) -> argparse.Namespace:
        return cli._parser().parse_args(arguments)

    assert cli._tracing(options()) is None and cli._tls(options()) is None
    url = "http://c:1/v1/traces"
    assert cli._tracing(options("--trace-url", url)) == Tracing(url, 1000)
    assert cli._tracing(options("--trace-url", url, "--trace-rate", "0")) == Tracing(url, 0)
    for option in ("--tls-ca", "--tls-cert", "--tls-key"):
        with pytest.raises(UsageError):
            cli._tls(options(option, "none.pem"))


def test_an_option_that_a_message_names_is_named_as_it_is_typed(tmp_path, capsys):
    assert cli.main(["--repository", str(tmp_path), "--tls-cert", "none.pem"]) == 2
    assert capsys.readouterr().err.endswith("a certificate and its key: --tls-cert and --tls-key\n")
    assert cli.main(["--repository", str(tmp_path), "--response-cache", "-1"]) == 1
    assert "--response-cache must be 0 to" in capsys.readouterr().err
