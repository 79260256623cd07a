"""Reads the metrics page of a Triton server: what it has counted of every model so far."""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from seresnext101_triton.client.errors import NotTriton, ServerUnreachable

PORT = 8002
_PREFIX = "nv_inference_"
_FAILURES = "nv_inference_request_failure"
# The failures that our own backends count, because Triton counts their requests as successful:
# https://github.com/triton-inference-server/server/issues/7713
FAILURES_OF_PYTHON = "seresnext101_request_failure"
# The field of `Counts` that each other metric of a model is added to.
_FIELDS = {
    "nv_inference_request_success": "requests",
    "nv_inference_count": "images",
    "nv_inference_exec_count": "runs",
    "nv_inference_queue_duration_us": "queue_us",
    "nv_inference_compute_input_duration_us": "compute_us",
    "nv_inference_compute_infer_duration_us": "compute_us",
    "nv_inference_compute_output_duration_us": "compute_us",
    "nv_inference_pending_request_count": "pending",
    "nv_cache_num_hits_per_model": "cache_hits",
    "nv_cache_num_misses_per_model": "cache_misses",
}
_LARGEST = 16 << 20  # bytes; a page of a thousand models has about 2 MB
# One sample of the text format of Prometheus: name{label="value",...} number.
_SAMPLE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})? (\S+)(?: \d+)?")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


@dataclass
class Counts:
    """What a server has counted of one version of a model since it was loaded.

    Attributes:
        requests: Requests that were answered.
        failures: Requests that failed, by Triton's reason: `REJECTED`, `CANCELED`, `BACKEND`,
            `OTHER`.
        images: Images that were computed.
        runs: Runs of the model. With dynamic batching, there are fewer runs than requests.
        queue_us: Time of all requests in the queue, in microseconds.
        compute_us: Time of all requests in the model, input and output included, in microseconds.
        pending: Requests that wait now.
        cache_hits: Requests that were answered from the response cache.
        cache_misses: Requests that were looked up in the response cache and not found.
    """

    requests: float = 0
    failures: dict[str, float] = field(default_factory=dict)
    images: float = 0
    runs: float = 0
    queue_us: float = 0
    compute_us: float = 0
    pending: float = 0
    cache_hits: float = 0
    cache_misses: float = 0

    @property
    def failed(self) -> float:
        """The number of requests that failed."""
        return sum(self.failures.values())


@dataclass(frozen=True)
class Page:
    """One reading of the metrics.

    Attributes:
        models: The counts of each model and version.
        gauges: The other numbers of the server, by name, for example `nv_cpu_utilization`. Of
            several GPUs it is the mean.
    """

    models: Mapping[tuple[str, str], Counts]
    gauges: Mapping[str, float]


def read_page(host: str, port: int, timeout_s: float) -> Page:
    """Ask a server for its metrics.

    Args:
        host: The host, an IPv6 address with or without brackets.
        port: The port for metrics.
        timeout_s: How long to wait, in seconds.

    Raises:
        ServerUnreachable: Nothing answers.
        NotTriton: What answers is not the metrics page of a Triton server.
    """
    connection = http.client.HTTPConnection(host.strip("[]"), port, timeout=timeout_s)
    where = f"{host}:{port}"
    try:
        connection.request("GET", "/metrics", headers={"Connection": "close"})
        answer = connection.getresponse()
        text = answer.read(_LARGEST).decode(errors="replace")
    except OSError as error:
        raise ServerUnreachable(
            f"no server tells its metrics at {where}: {error.strerror or error}. Name its port "
            "with `metrics_port`"
        ) from None
    except http.client.HTTPException:
        raise _no_metrics(where) from None
    finally:
        connection.close()
    if answer.status != http.client.OK or _PREFIX not in text:
        raise _no_metrics(where)
    return parse(text)


def _no_metrics(where: str) -> NotTriton:
    return NotTriton(
        f"what answers at {where} is not the metrics page of a Triton server: name its port with "
        "`metrics_port`"
    )


def parse(text: str) -> Page:
    """Read the text of a metrics page. Lines that are not samples are left out."""
    models: dict[tuple[str, str], Counts] = {}
    gauges: dict[str, list[float]] = {}
    for line in text.splitlines():
        sample = _SAMPLE.fullmatch(line)
        if line.startswith("#") or not sample:
            continue
        name, labels, number = sample.groups()
        found = {key: _unescaped(value) for key, value in _LABEL.findall(labels or "")}
        try:
            value = float(number)
        except ValueError:
            continue
        if "model" in found:
            counts = models.setdefault((found["model"], found.get("version", "")), Counts())
            _count(counts, name, found.get("reason", ""), value)
        else:
            gauges.setdefault(name, []).append(value)
    return Page(models, {name: sum(values) / len(values) for name, values in gauges.items()})


def _count(counts: Counts, name: str, reason: str, value: float) -> None:
    if name == _FAILURES:
        counts.failures[reason] = counts.failures.get(reason, 0) + value
    elif name == FAILURES_OF_PYTHON:
        counts.failures["BACKEND"] = counts.failures.get("BACKEND", 0) + value
        counts.requests -= value
    elif name in _FIELDS:
        setattr(counts, _FIELDS[name], getattr(counts, _FIELDS[name]) + value)


def _unescaped(value: str) -> str:
    return re.sub(r"\\.", lambda found: _ESCAPES.get(found[0], found[0]), value)
