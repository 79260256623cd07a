"""The configuration of Envoy, which a real Envoy reads. `test_balancing.py` serves with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seresnext101_triton.server.fleet.cli import main
from seresnext101_triton.server.fleet.gateway import Endpoint, Gateway, bootstrap
from seresnext101_triton.server.ports import Ports
from tests.server.fleet.envoy import validate


def configuration(folder: Path, *servers: Endpoint) -> tuple[Path, Gateway]:
    """A file for Envoy, with free ports."""
    ports = Ports(0, 0, 0).resolve("127.0.0.1")
    gateway = Gateway(servers, grpc=ports.grpc, http=ports.http, admin=ports.metrics)
    path = folder / "envoy.json"
    path.write_text(gateway.to_text())
    return path, gateway


@pytest.mark.parametrize(
    "servers",
    [
        [Endpoint("127.0.0.1", 1, 2)],
        [Endpoint("127.0.0.1", 1, 2), Endpoint("::1", 3, 4)],
        [Endpoint("triton-pods.ml")],
        [Endpoint("triton-pods.ml"), Endpoint("10.0.0.1")],
    ],
)
def test_envoy_accepts_every_configuration(tmp_path, servers):
    path, _ = configuration(tmp_path, *servers)
    result = validate(path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"retry_on"', '"retries_on"'),
        ('"LEAST_REQUEST"', '"LEAST_REQUESTS"'),
        ('"connect_timeout": "1s"', '"connect_timeout": "1"'),
        ('"cluster": "grpc"', '"cluster": "grpcs"'),
        ('"port_value": 1', '"port_value": 70000'),
        ("previous_hosts.v3", "previous_host.v3"),
    ],
)
def test_envoy_refuses_a_planted_error(tmp_path, old, new):
    path, _ = configuration(tmp_path, Endpoint("127.0.0.1", 1, 2))
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert validate(path).returncode != 0


def test_the_file_that_kubernetes_gets_is_this_configuration():
    stored = Path(__file__).parents[3] / "deploy" / "envoy" / "envoy.json"
    pods = Endpoint("triton-seresnext101-triton-pods")
    assert json.loads(stored.read_text()) == bootstrap(Gateway((pods,), address="0.0.0.0"))


def test_what_a_canary_and_a_judge_change(tmp_path):
    """One server has another weight and gets the requests for its version, one gets none."""
    servers = (
        Endpoint("::1", 1, 2, weight=90),
        Endpoint("::1", 3, 4, weight=10, extra="m/4"),
        Endpoint("::1", 5, 6, is_aside=True),
    )
    gateway = Gateway(servers, admin_socket=tmp_path / "admin", rotation=tmp_path)
    (tmp_path / "envoy.json").write_text(gateway.to_text())
    gateway.write_rotation()
    assert validate(tmp_path / "envoy.json").returncode == 0
    for name in ("grpc", "http"):
        (cluster,) = json.loads((tmp_path / f"{name}.json").read_text())["resources"]
        (endpoints,) = cluster["endpoints"]
        stable, canary, judged = endpoints["lb_endpoints"]
        assert (stable["load_balancing_weight"], canary["load_balancing_weight"]) == (90, 10)
        assert [
            each["metadata"]["filter_metadata"]["envoy.lb"] for each in (stable, canary, judged)
        ] == [
            {"rotation": "in"},
            {"rotation": "in", "version": "m/4"},
            {},
        ]


def test_what_one_machine_has_otherwise(tmp_path):
    """Addresses need no DNS; Envoy's own pages are at a socket; two Envoys take no port twice."""
    servers = (Endpoint("127.0.0.1", 11, 12), Endpoint("::1", 21, 22))
    here = Gateway(servers, "::1", 1, 2, admin_socket=tmp_path / "admin", shares_ports=False)
    configured = bootstrap(here)
    pipe = {"pipe": {"path": str(tmp_path / "admin"), "mode": 0o600}}
    assert configured["admin"] == {"address": pipe}
    resources = configured["static_resources"]
    for number, listener in enumerate(resources["listeners"], start=1):
        place = {"address": "::1", "port_value": number}
        assert listener["address"] == {"socket_address": place}
        assert listener["enable_reuse_port"] is False
    for number, cluster in enumerate(resources["clusters"], start=1):
        (endpoints,) = cluster["load_assignment"]["endpoints"]
        found = [each["endpoint"]["address"] for each in endpoints["lb_endpoints"]]
        assert found == [
            {"socket_address": {"address": "127.0.0.1", "port_value": 10 + number}},
            {"socket_address": {"address": "::1", "port_value": 20 + number}},
        ]
        assert cluster["type"] == "STATIC" and "dns_refresh_rate" not in cluster
    elsewhere = bootstrap(Gateway((*servers, Endpoint("triton.ml")), admin=7))
    place = {"address": "127.0.0.1", "port_value": 7}
    assert elsewhere["admin"] == {"address": {"socket_address": place}}
    for cluster in elsewhere["static_resources"]["clusters"]:
        assert cluster["type"] == "STRICT_DNS"
    for listener in elsewhere["static_resources"]["listeners"]:
        assert "enable_reuse_port" not in listener


def test_the_command_prints_what_envoy_takes(tmp_path, capsys):
    assert main(["triton.ml", "--address", "0.0.0.0", "--grpc-port", "9001"]) == 0
    path = tmp_path / "envoy.json"
    path.write_text(capsys.readouterr().out)
    assert validate(path).returncode == 0
    listeners = json.loads(path.read_text())["static_resources"]["listeners"]
    assert listeners[0]["address"]["socket_address"] == {"address": "0.0.0.0", "port_value": 9001}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a:8001"], "write the name alone"),
        (["http://a"], "write the name alone"),
        (["a", "a"], "named once"),
        (["a", "--address", "eth0"], "--address must be the address of an interface"),
        (["a", "--http-port", "8001"], "--grpc-port, --http-port and --admin-port must differ"),
        (["a b"], "a blank"),
    ],
)
def test_wrong_usage_is_one_line(capsys, words, message):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("option", ["--grpc-port", "--server-http-port"])
def test_ports_are_from_1_to_65535(capsys, option):
    for port in ("1", "65535"):
        assert main(["a", option, port]) == 0
        assert f'"port_value": {port}' in capsys.readouterr().out
    for wrong in ("0", "65536", "-1", "+1", "1e3", "００１", "000001", ""):
        with pytest.raises(SystemExit) as ended:
            main(["a", f"{option}={wrong}"])
        assert ended.value.code == 2
        assert f"a port is a number of 1 to 65535, not {wrong!r}" in capsys.readouterr().err
