"""The objects of KServe, against its custom resource definitions."""

from __future__ import annotations

import pytest

from seresnext101_triton.server import TRITON_RELEASE
from tests.deploy.objects import DEPLOY, KUBERNETES, errors, kustomize, of_kind, render
from tests.deploy.objects import container as of_the_chart


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_both_objects_are_valid(protocol):
    objects = kustomize(DEPLOY / "kserve" / protocol)
    assert {each["kind"] for each in objects} == {"ServingRuntime", "InferenceService"}
    assert errors(objects, KUBERNETES[0]) == []


@pytest.mark.parametrize(("protocol", "spoken"), [("http", "v2"), ("grpc", "grpc-v2")])
def test_the_service_speaks_what_its_runtime_speaks(protocol, spoken):
    objects = kustomize(DEPLOY / "kserve" / protocol)
    runtime = of_kind(objects, "ServingRuntime")
    model = of_kind(objects, "InferenceService")["spec"]["predictor"]["model"]
    assert runtime["spec"]["protocolVersions"] == [spoken] == [model["protocolVersion"]]
    assert model["runtime"] == runtime["metadata"]["name"]
    supported = [
        {key: each[key] for key in ("name", "version")}
        for each in runtime["spec"]["supportedModelFormats"]
    ]
    assert model["modelFormat"] in supported
    (container,) = runtime["spec"]["containers"]
    (port,) = container["ports"]
    assert any(each == f"--{protocol}-port={port['containerPort']}" for each in container["args"])


def test_the_runtime_is_as_the_chart_serves():
    (ours,) = of_kind(kustomize(DEPLOY / "kserve" / "http"), "ServingRuntime")["spec"]["containers"]
    charts = of_the_chart(render())
    assert ours["image"] == charts["image"] and TRITON_RELEASE in ours["image"]

    def without_places(arguments: list[str]) -> list[str]:
        return [each for each in arguments if "-port=" not in each and "repository=" not in each]

    assert without_places(ours["args"]) == without_places(charts["args"])
    for key in ("allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"):
        assert ours["securityContext"][key] == charts["securityContext"][key]


RUNTIME, SERVICE = "kserve/http/runtime.yaml", "kserve/http/service.yaml"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (RUNTIME, "protocolVersions: [v2]", "protocolVersions: v2", "protocolVersions"),
        (RUNTIME, "  containers:", "  container:", "container"),
        (RUNTIME, "failureThreshold: 120", "failureThresholds: 120", "failureThresholds"),
        (RUNTIME, "supportedModelFormats:", "supportedModelFormat:", "supportedModelFormat"),
        (RUNTIME, "containerPort: 8080", "containerPort: http", "containerPort"),
        (RUNTIME, "v1alpha1", "v1", "serving.kserve.io/v1"),
        (SERVICE, "minReplicas: 2", "minReplica: 2", "minReplica"),
        (SERVICE, "      modelFormat: {name: triton", "      modelFormat: {nam: triton", "nam"),
        (SERVICE, "storageUri: pvc://models/model_repository", "storageUri: [a]", "storageUri"),
        (SERVICE, "scaleTarget: 80", "scaleTarget: many", "scaleTarget"),
        (SERVICE, "scaleMetric: cpu", "scaleMetric: queue", "scaleMetric"),
        (SERVICE, "  predictor:", "  predictors:", "predictor"),
    ],
)
def test_a_planted_error_is_found(plant, file, old, new, message):
    found = errors(kustomize(plant(file, old, new) / "kserve" / "http"), KUBERNETES[0])
    assert message in "\n".join(found)
