"""`python -m tests.deploy` writes the files of deploy/ that the chart and `server.fleet` decide."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from seresnext101_triton.server.fleet.gateway import Endpoint, Gateway
from tests.deploy.objects import DEPLOY, Object, render

_HEADER = "# Written by `python -m tests.deploy` from the Helm chart.\n"
_MONITORING = ("ServiceMonitor", "PrometheusRule")
_OF_HELM = ("app.kubernetes.io/managed-by", "helm.sh/chart")


def files() -> dict[Path, str]:
    """What the files must contain, by their paths."""
    objects = render(
        {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
        name="seresnext101-triton",
    )
    for each in objects:
        _drop_labels(each)
    monitoring = [each for each in objects if each["kind"] in _MONITORING]
    others = [each for each in objects if each["kind"] not in _MONITORING]
    folder = DEPLOY / "kustomize"
    return {
        folder / "base" / "triton.yaml": _text(others),
        folder / "overlays" / "monitored" / "monitoring.yaml": _text(monitoring),
        DEPLOY / "envoy" / "envoy.json": _envoy(),
    }


def _envoy() -> str:
    """An Envoy in front of all pods of the release `triton`."""
    services = [each for each in render(name="triton") if each["kind"] == "Service"]
    (pods,) = (each for each in services if each["spec"].get("clusterIP") == "None")
    server = Endpoint(pods["metadata"]["name"])
    return Gateway((server,), address="0.0.0.0").to_text()


def _drop_labels(node: object) -> None:
    """Remove the labels that say that Helm manages an object."""
    if isinstance(node, dict):
        for label in _OF_HELM:
            node.pop(label, None)
        for each in node.values():
            _drop_labels(each)
    elif isinstance(node, list):
        for each in node:
            _drop_labels(each)


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as a block, as a person would."""


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent)


def _text(objects: list[Object]) -> str:
    dumped: str = yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=1000)
    return _HEADER + dumped


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
        sys.stdout.write(f"{path}\n")
