"""Runs Debian's Prometheus and its promtool, and reads the rules and the dashboard."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from tests.deploy.objects import DEPLOY
from tests.waiting import until

MONITORING = DEPLOY / "monitoring"
WINDOW_S = 10
# The labels that a service monitor gives to every metric of a pod.
POD = {"namespace": "ml", "pod": "triton-0"}
# Metrics of servers with GPUs, and of the kubelet. No server of the tests has them. Their names are
# in Triton's page on metrics and in that of Kubernetes.
ELSEWHERE = {
    "nv_gpu_utilization",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
    "container_memory_working_set_bytes",
    "container_spec_memory_limit_bytes",
}
_METRIC = re.compile(r"\b(?:nv|container)_[a-z_]+")


def program(name: str) -> str:
    """The path of a program of Debian's package `prometheus`."""
    found = shutil.which(name)
    assert found, f"{name} is missing: install Debian's package prometheus"
    return found


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    return subprocess.run([program("promtool"), *arguments], capture_output=True, text=True)


def metrics_in(text: str) -> set[str]:
    """The names of all metrics of servers and of the kubelet in a text."""
    return set(_METRIC.findall(text))


def exported_by(url: str) -> set[str]:
    """The names of the metrics that a page of metrics has."""
    with urlopen(url, timeout=30) as page:
        return metrics_in(page.read().decode())


def dashboard() -> dict[str, Any]:
    """The dashboard for Grafana."""
    loaded: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return loaded


def expressions(board: dict[str, Any]) -> list[str]:
    """The queries of all panels and annotations, as Grafana sends them."""
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    found += [each["expr"] for each in board["annotations"]["list"]]
    values = {"$__rate_interval": f"{WINDOW_S}s", "$namespace": ".*", "$model": ".*"}
    for variable, value in values.items():
        found = [each.replace(variable, value) for each in found]
    return found


def problems(board: dict[str, Any], exported: set[str], folder: Path) -> list[str]:
    """What is wrong with a dashboard.

    Args:
        board: The dashboard.
        exported: The metrics that servers have.
        folder: An empty folder.
    """
    found = []
    panels = board["panels"]
    if len({panel["id"] for panel in panels}) < len(panels):
        found.append("two panels have one id")
    places: set[tuple[int, int]] = set()
    for panel in panels:
        x, y, w, h = (panel["gridPos"][side] for side in "xywh")
        cells = {(x + right, y + down) for right in range(w) for down in range(h)}
        if cells & places or x + w > 24:
            found.append(f"{panel['title']} lies over another panel, or outside the page")
        places |= cells
    variables = {each["name"] for each in board["templating"]["list"]} | {"__rate_interval"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board))) - {"__all"}
    found += [f"no variable is called {name}" for name in used - variables]
    found += [f"no server has {each}" for each in metrics_in(json.dumps(board)) - exported]
    rules = [{"record": f"panel:{n}", "expr": each} for n, each in enumerate(expressions(board))]
    path = folder / "expressions.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = promtool("check", "rules", path)
    if checked.returncode:
        found.append(checked.stderr)
    return found


class Prometheus:
    """A running Prometheus.

    Args:
        url: Its address.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression, now."""
        found: list[dict[str, Any]] = self._ask("query", query=expression)["result"]
        return found

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        alerts = self._ask("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def _ask(self, what: str, **parameters: str) -> dict[str, Any]:
        with urlopen(f"{self._url}/api/v1/{what}?{urlencode(parameters)}", timeout=30) as page:
            data: dict[str, Any] = json.load(page)["data"]
        return data


def adapted() -> dict[str, str]:
    """The queries that prometheus-adapter sends for the metrics of a pod, by their names."""
    text = (MONITORING / "prometheus-adapter.yaml").read_text()
    labels = ",".join(f'{key}="{value}"' for key, value in POD.items())
    found = {}
    for rule in yaml.safe_load(text)["rules"]["custom"]:
        query = rule["metricsQuery"]
        for place, value in {
            "<<.Series>>": rule["seriesQuery"].partition("{")[0],
            "<<.LabelMatchers>>": labels,
            "<<.GroupBy>>": "pod",
        }.items():
            query = query.replace(place, value)
        found[rule["name"]["as"]] = shortened(query)
    return found


def shortened(rules: str) -> str:
    """The rules with every window and every waiting time cut to seconds."""
    rules = re.sub(r"\[\d+[mh]\]", f"[{WINDOW_S}s]", rules)
    return re.sub(r"\bfor: \d+m", "for: 1s", rules)


@contextmanager
def prometheus(target: str, folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus with the rules against one server.

    Args:
        target: `host:port` of the server's metrics.
        folder: An empty folder.
    """
    (folder / "rules.yaml").write_text(shortened((MONITORING / "rules.yaml").read_text()))
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target], "labels": POD}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        running = Prometheus(f"http://{address}")

        def answers() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                return bool(running.query("up"))
            except URLError:
                return False

        assert until(answers), (folder / "log").read_text()
        yield running
    finally:
        process.terminate()
        process.wait()
