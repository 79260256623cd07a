"""Renders the chart and the overlays with the real tools, and holds every object against schemas.

Objects of Kubernetes are checked by `kubernetes-validate`, those of KServe against its custom
resource definitions, and those of the Prometheus operator against a schema of its types. All
schemas are strict: a field that does not exist is an error.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import yaml

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
CHART = DEPLOY / "helm" / "seresnext101-triton"
KUBERNETES = ("1.33", "1.37")
_SCHEMAS = Path(__file__).with_name("schemas")

Object = dict[str, Any]

# The least that a release must choose.
VALUES: Object = {
    "repository": {"pvc": {"claimName": "models", "subPath": "model_repository"}},
    "verify": {"image": "seresnext101-triton"},
}


def merged(*values: Object) -> Object:
    """Values laid over each other, the last ones on top."""
    result: Object = {}
    for each in values:
        for key, value in each.items():
            inner = result.get(key)
            both = isinstance(value, dict) and isinstance(inner, dict)
            result[key] = merged(dict(inner or {}), value) if both else value
    return result


def render(values: Object | None = None, chart: Path = CHART, name: str = "triton") -> list[Object]:
    """The objects of a release, by the Helm SDK.

    Args:
        values: What is laid over `VALUES`.
        chart: The folder of the chart.
        name: The name of the release.

    Raises:
        helm_python.HelmError: The values or a template are refused.
    """
    with helm_python.Chart.load(chart) as loaded:
        given = merged(VALUES, values or {})
        texts = loaded.render(given, name=name, namespace="ml")
    return [
        each
        for path, text in sorted(texts.items())
        if not path.endswith("NOTES.txt")
        for each in yaml.safe_load_all(text)
        if each
    ]


def notes(values: Object | None = None) -> str:
    """What Helm prints after an installation."""
    with helm_python.Chart.load(CHART) as loaded:
        texts = loaded.render(merged(VALUES, values or {}), name="triton", namespace="ml")
    return texts[f"{CHART.name}/templates/NOTES.txt"]


def kustomize(folder: Path) -> list[Object]:
    """The objects of a folder, by `kubectl kustomize`.

    Raises:
        subprocess.CalledProcessError: The folder is refused; its `stderr` says why.
    """
    kubectl = Path(sys.executable).with_name("kubectl")
    result = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, check=True
    )
    return [each for each in yaml.safe_load_all(result.stdout) if each]


def of_kind(objects: list[Object], kind: str) -> Object:
    """The only object of a kind."""
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


def container(objects: list[Object]) -> Object:
    """The container of tritonserver."""
    (found,) = of_kind(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def errors(objects: list[Object], kubernetes: str) -> list[str]:
    """What is wrong with objects.

    An API version or a kind without a schema is an error too.

    Args:
        objects: Objects of Kubernetes, KServe and the Prometheus operator.
        kubernetes: The version of Kubernetes.
    """
    return [
        f"{each.get('kind')} {each.get('metadata', {}).get('name')}: {problem}"
        for each in objects
        for problem in _errors_of(each, kubernetes)
    ]


def _errors_of(each: Object, kubernetes: str) -> Iterator[str]:
    identity = (each.get("apiVersion", ""), each.get("kind", ""))
    if (schema := custom_schemas().get(identity)) is not None:
        for error in jsonschema.Draft7Validator(schema).iter_errors(each):
            yield f"{error.json_path}: {error.message}"
        return
    try:
        kubernetes_validate.validate(each, kubernetes, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{error.json_path}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        yield error.message


@cache
def custom_schemas() -> dict[tuple[str, str], Object]:
    """Strict schemas of the kinds that Kubernetes itself does not have."""
    found = {}
    for path in _SCHEMAS.glob("*.json.gz"):
        definition = json.loads(gzip.decompress(path.read_bytes()))["spec"]
        for version in definition["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            _forbid_unknown_fields(schema)
            schema["properties"]["metadata"] = {"type": "object"}
            identity = (f"{definition['group']}/{version['name']}", definition["names"]["kind"])
            found[identity] = schema
    operator = json.loads((_SCHEMAS / "monitoring.coreos.com.json").read_text())
    for kind, schema in operator["kinds"].items():
        found["monitoring.coreos.com/v1", kind] = schema | {"definitions": operator["definitions"]}
    return found


def _forbid_unknown_fields(schema: Any) -> None:
    """Make a schema of a custom resource definition as strict as the API server's strict mode."""
    if isinstance(schema, list):
        for each in schema:
            _forbid_unknown_fields(each)
    elif isinstance(schema, dict):
        open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
        if isinstance(schema.get("properties"), dict) and not open_ended:
            schema.setdefault("additionalProperties", False)
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
        for each in schema.values():
            _forbid_unknown_fields(each)
