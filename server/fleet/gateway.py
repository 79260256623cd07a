"""The configuration of an Envoy in front of several tritonservers.

The same settings serve a fleet on one machine and pods on Kubernetes. The names of fields are those
of Envoy's API v3, https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/api.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seresnext101_triton.client.protocols import VERSION_HEADER
from seresnext101_triton.server.ports import LOCALHOST

# A request is kept until its answer has come, so that it can be sent to another server. A batch of
# 32 images in FP32 has 19 MB.
BUFFER_BYTES = 64 << 20
# An image of a batch in FP32 has 0.6 MB, and the default window of HTTP/2 in other programs 64 KB.
_STREAM_WINDOW, _CONNECTION_WINDOW = 16 << 20, 64 << 20
_CONNECT_TIMEOUT = "1s"
# On an overloaded machine an answer is late. It counts as missing after the timeout.
_HEALTH_INTERVAL, _HEALTH_TIMEOUT = "1s", "3s"
_TYPES = "type.googleapis.com/"
_VERSION, _IN_ROTATION = "version", {"rotation": "in"}
_VERSION_PATH = "^/v2/models/([^/]+)/versions/([^/?]+).*$"
_NOTES = "envoy.extensions.filters.http.header_to_metadata.v3.Config"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_ASSIGNMENT = "envoy.config.endpoint.v3.ClusterLoadAssignment"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

PROTOCOLS = ("grpc", "http")

Message = dict[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """One tritonserver, or a name that DNS knows the addresses of several for.

    Attributes:
        host: An address or a name.
        grpc: Port for gRPC.
        http: Port for HTTP.
        is_aside: Whether it gets no requests now, although it answers.
        weight: Its share of the requests is this, divided by the sum for all servers.
        extra: `MODEL/VERSION`, a version that only this server has. Requests that name it get here.
    """

    host: str
    grpc: int = 8001
    http: int = 8000
    is_aside: bool = False
    weight: int = 1
    extra: str = ""

    @property
    def is_address(self) -> bool:
        """Whether the host needs no DNS."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True


@dataclass(frozen=True)
class Gateway:
    """An Envoy and the servers behind it.

    Attributes:
        servers: The servers.
        address: The interface for clients.
        grpc: Port for clients, gRPC.
        http: Port for clients, HTTP.
        admin: Port of Envoy's own pages, on this machine only. They can also end Envoy.
        admin_socket: The path of a Unix socket for these pages, instead of the port.
        shares_ports: Whether another Envoy may listen on the same ports, as Envoy's hot restart
            needs. Otherwise a port that is in use ends Envoy.
        rotation: A folder with a file for each protocol that says which servers get requests.
            Envoy follows changes of these files. None if this never changes.
    """

    servers: tuple[Endpoint, ...]
    address: str = LOCALHOST
    grpc: int = 8001
    http: int = 8000
    admin: int = 9901
    admin_socket: Path | None = None
    shares_ports: bool = True
    rotation: Path | None = None

    def __post_init__(self) -> None:
        assert self.servers, "an Envoy needs a server"

    def to_text(self) -> str:
        """The configuration as JSON, which Envoy reads."""
        return _text(bootstrap(self))

    def write_rotation(self) -> None:
        """Write the files of `rotation`, each in one step."""
        assert self.rotation is not None
        for name in PROTOCOLS:
            hidden = self.rotation / f".{name}.new"
            hidden.write_text(_text({"resources": [assignment(name, self)]}))
            hidden.rename(self.rotation / f"{name}.json")  # Envoy notices renamed files only


def _text(message: Message) -> str:
    return json.dumps(message, indent=2) + "\n"


def bootstrap(gateway: Gateway) -> Message:
    """The configuration of Envoy (envoy.config.bootstrap.v3.Bootstrap)."""
    return {
        # Envoy demands a name of its own where it follows files.
        **({"node": {"id": "gateway", "cluster": "triton"}} if gateway.rotation else {}),
        "admin": {"address": _admin(gateway)},
        "static_resources": {
            "listeners": [_listener(name, gateway, getattr(gateway, name)) for name in PROTOCOLS],
            "clusters": [_cluster(name, gateway) for name in PROTOCOLS],
        },
    }


def _admin(gateway: Gateway) -> Message:
    if gateway.admin_socket is None:
        return _socket(LOCALHOST, gateway.admin)
    return {"pipe": {"path": str(gateway.admin_socket), "mode": 0o600}}


def _socket(host: str, port: int) -> Message:
    return {"socket_address": {"address": host, "port_value": port}}


def _windows() -> Message:
    return {
        "initial_stream_window_size": _STREAM_WINDOW,
        "initial_connection_window_size": _CONNECTION_WINDOW,
    }


def _listener(name: str, gateway: Gateway, port: int) -> Message:
    manager = {
        "@type": f"{_TYPES}envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "AUTO",
        "http2_protocol_options": _windows(),
        "server_header_transformation": "PASS_THROUGH",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "triton",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": _route(name)}],
                }
            ]
        },
        "http_filters": [
            *([_named_version(name)] if gateway.rotation else []),
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPES}{_ROUTER}"}},
        ],
    }
    return {
        "name": name,
        "address": _socket(gateway.address, port),
        **({} if gateway.shares_ports else {"enable_reuse_port": False}),
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ]
            }
        ],
    }


def _named_version(name: str) -> Message:
    """Notes the version that a request names, by which a cluster chooses among its servers.

    It is in the path of HTTP. gRPC has it in the message only, so that our client repeats it in a
    header.
    """
    noted = {"metadata_namespace": "envoy.lb", "key": _VERSION, "type": "STRING"}
    rule: Message = {"header": VERSION_HEADER, "on_header_present": noted}
    if name == "http":
        rewrite = {"pattern": {"regex": _VERSION_PATH}, "substitution": r"\1/\2"}
        rule = {"header": ":path", "on_header_present": noted | {"regex_value_rewrite": rewrite}}
    return {
        "name": "envoy.filters.http.header_to_metadata",
        "typed_config": {"@type": f"{_TYPES}{_NOTES}", "request_rules": [rule]},
    }


def _route(name: str) -> Message:
    """How a request is sent, and sent again.

    A deadline is the client's own (`grpc-timeout`). A server that hangs is found by the health
    check, which resets its requests, so that a try needs no deadline.
    """
    again = "unavailable" if name == "grpc" else "gateway-error"
    previous_hosts = {
        "name": "envoy.retry_host_predicates.previous_hosts",
        "typed_config": {
            "@type": f"{_TYPES}envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
        },
    }
    return {
        "cluster": name,
        "timeout": "0s",
        "max_stream_duration": {"grpc_timeout_header_max": "0s"},
        "retry_policy": {
            "retry_on": f"connect-failure,refused-stream,reset,{again}",
            "num_retries": 3,
            "retry_host_predicate": [previous_hosts],
            # A server that has just ended has the least requests, so that nearly every choice
            # falls on it. With few attempts to choose another, requests were lost.
            "host_selection_retry_max_attempts": 100,
            "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.5s"},
        },
    }


def assignment(name: str, gateway: Gateway) -> Message:
    """The servers of a cluster (envoy.config.endpoint.v3.ClusterLoadAssignment)."""
    servers = [
        {
            "endpoint": {"address": _socket(each.host, getattr(each, name))},
            **({"load_balancing_weight": each.weight} if each.weight != 1 else {}),
            **({"metadata": _facts(each)} if gateway.rotation else {}),
        }
        for each in gateway.servers
    ]
    return {
        **({"@type": f"{_TYPES}{_ASSIGNMENT}"} if gateway.rotation else {}),
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": servers}],
    }


def _facts(server: Endpoint) -> Message:
    """By what a cluster chooses among its servers. A server that is aside answers what it has."""
    return {
        "filter_metadata": {
            "envoy.lb": {
                **({} if server.is_aside else _IN_ROTATION),
                **({_VERSION: server.extra} if server.extra else {}),
            }
        }
    }


def _servers(name: str, gateway: Gateway) -> Message:
    """Where a cluster has its servers from."""
    if gateway.rotation:
        source = {"path_config_source": {"path": str(gateway.rotation / f"{name}.json")}}
        return {
            "type": "EDS",
            "eds_cluster_config": {"eds_config": source | {"resource_api_version": "V3"}},
        }
    servers = {"load_assignment": assignment(name, gateway)}
    if all(each.is_address for each in gateway.servers):
        return {"type": "STATIC", **servers}
    # A name that is gone for a moment, as when a pod is replaced, is asked for again soon.
    dns = {"dns_refresh_rate": "1s", "respect_dns_ttl": False}
    return {"type": "STRICT_DNS", **dns, **servers}


def _weights() -> Message:
    """Have weights that differ be kept exactly, however many requests the servers have."""
    return {
        "active_request_bias": {"default_value": 0.0, "runtime_key": "active_request_bias"},
    }


def _rotation() -> Message:
    """Send a request that names a version of `Endpoint.extra` there; no other to a server aside.

    The health of a server does not say that it is aside: a server that is judged must get no
    request, even if all servers are late to answer their health checks.
    """
    return {
        "lb_subset_config": {
            "fallback_policy": "DEFAULT_SUBSET",
            "default_subset": _IN_ROTATION,
            "subset_selectors": [{"keys": [_VERSION]}],
        }
    }


def _cluster(name: str, gateway: Gateway) -> Message:
    if name == "grpc":
        spoken: Message = {"http2_protocol_options": _windows()}
        check: Message = {"grpc_health_check": {}}
    else:
        spoken = {"http_protocol_options": {}}
        check = {"http_health_check": {"path": "/v2/health/ready"}}
    return {
        "name": name,
        **_servers(name, gateway),
        "connect_timeout": _CONNECT_TIMEOUT,
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "lb_policy": "LEAST_REQUEST",
        # Of a few servers, two random choices are often the same one.
        "least_request_lb_config": {"choice_count": 3, **(_weights() if gateway.rotation else {})},
        **(_rotation() if gateway.rotation else {}),
        "common_lb_config": {
            # No request is sent to a server that fails its health check, unless all do: then the
            # machine is overloaded and the answers are late, or the servers are absent, which the
            # attempt to connect tells. This is a share of the servers, in percent.
            "healthy_panic_threshold": {"value": 1},
            # Envoy's threads would learn of a server that is aside up to a second later.
            **({"update_merge_window": "0s"} if gateway.rotation else {}),
        },
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: {
                "@type": f"{_TYPES}{_HTTP_OPTIONS}",
                "explicit_http_config": spoken,
            }
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 4096,
                    "max_requests": 4096,
                    "max_pending_requests": 4096,
                    # All requests of a server that ends may be sent again at once: half of them,
                    # if there are two. The rest of the time this bounds a storm of retries.
                    "retry_budget": {
                        "budget_percent": {"value": 80},
                        "min_retry_concurrency": 64,
                    },
                }
            ]
        },
        "health_checks": [
            {
                "timeout": _HEALTH_TIMEOUT,
                "interval": _HEALTH_INTERVAL,
                "no_traffic_interval": _HEALTH_INTERVAL,
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                **check,
            }
        ],
        "close_connections_on_host_health_failure": True,
        # Only what Envoy itself sees counts: refused connections, resets. Answers do not: any
        # client could have all servers ejected with requests that they refuse.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 3,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "base_ejection_time": "5s",
            "max_ejection_percent": 50,
        },
    }
