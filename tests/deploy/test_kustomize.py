"""The overlays of kustomize, and the base that the chart decides."""

from __future__ import annotations

import subprocess

import pytest

from tests.deploy.__main__ import files
from tests.deploy.objects import (
    DEPLOY,
    KUBERNETES,
    container,
    errors,
    kustomize,
    of_kind,
    render,
)
from tests.server.fleet.envoy import validate

FOLDERS = ("base", "overlays/gpu", "overlays/monitored")


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_object_is_valid(folder, kubernetes):
    objects = kustomize(DEPLOY / "kustomize" / folder)
    assert len(objects) >= 6
    assert errors(objects, kubernetes) == []


def test_what_the_chart_and_the_fleet_decide_is_up_to_date():
    for path, text in files().items():
        assert path.read_text() == text, f"run `python -m tests.deploy`: {path.name} is old"
        assert "Helm" not in text.partition("\n")[2]


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_the_envoys_are_valid(kubernetes):
    objects = kustomize(DEPLOY / "envoy")
    assert errors(objects, kubernetes) == []
    configuration = of_kind(objects, "ConfigMap")
    volumes = of_kind(objects, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert volumes[0]["configMap"]["name"] == configuration["metadata"]["name"]


def test_the_envoys_find_the_pods_of_the_release(tmp_path):
    configuration = of_kind(kustomize(DEPLOY / "envoy"), "ConfigMap")["data"]["envoy.json"]
    (tmp_path / "envoy.json").write_text(configuration)
    assert validate(tmp_path / "envoy.json").returncode == 0
    services = [each for each in render(name="triton") if each["kind"] == "Service"]
    (pods,) = (each for each in services if each["spec"].get("clusterIP") == "None")
    assert f'"address": "{pods["metadata"]["name"]}"' in configuration


def test_the_overlay_for_gpus():
    objects = kustomize(DEPLOY / "kustomize" / "overlays" / "gpu")
    triton = container(objects)
    assert triton["resources"]["limits"] == {"memory": "4Gi", "nvidia.com/gpu": 1}
    models = [each for each in triton["args"] if each.startswith("--load-model")]
    assert models == ["--load-model=seresnext101_tensorrt_fp16"]


def test_the_monitored_overlay():
    objects = kustomize(DEPLOY / "kustomize" / "overlays" / "monitored")
    assert of_kind(objects, "ServiceMonitor") and of_kind(objects, "PrometheusRule")


BASE, GPU = "kustomize/base/triton.yaml", "kustomize/overlays/gpu/kustomization.yaml"


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (GPU, "resources: [../../base]", "resources: [../../bases]"),
        (GPU, "value: --load-model=seresnext101_onnx", "value: --load-model=other"),
        (GPU, "limits/nvidia.com~1gpu", "limit/nvidia.com~1gpu"),
        (GPU, "apiVersion: kustomize", "namePrefixes: a-\napiVersion: kustomize"),
        (GPU, "target: {kind: Deployment}", "target: {kind: Deployment"),
    ],
)
def test_an_error_planted_in_an_overlay_is_refused(plant, file, old, new):
    with pytest.raises(subprocess.CalledProcessError) as caught:
        kustomize(plant(file, old, new) / "kustomize" / "overlays" / "gpu")
    assert caught.value.stderr.strip()


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (GPU, "value: 1", "value: {count: 1}", "nvidia.com/gpu"),
        (GPU, "maxSurge: 0", "maxSurges: 0", "maxSurges"),
        (GPU, "path: /spec/strategy/rollingUpdate", "path: /spec/strategies", "strategies"),
        (BASE, "kind: PodDisruptionBudget", "kind: PodDisruption", "PodDisruption"),
        (BASE, "containerPort:", "containerport:", "containerPort"),
    ],
)
def test_an_error_planted_in_the_objects_is_found(plant, file, old, new, message):
    copy = plant(file, old, new)
    found = errors(kustomize(copy / "kustomize" / "overlays" / "gpu"), KUBERNETES[0])
    assert message in "\n".join(found)
