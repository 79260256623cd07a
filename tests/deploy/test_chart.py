"""The Helm chart: what it renders is valid and closed. Values that make no sense are refused."""

from __future__ import annotations

import json
import re

import helm_python
import pytest
import yaml

from seresnext101_triton.server import ENGINE_CACHE, TRITON_RELEASE
from tests.deploy.objects import (
    CHART,
    KUBERNETES,
    VALUES,
    Object,
    container,
    errors,
    merged,
    notes,
    of_kind,
    render,
)

# Releases that differ in what they render. Each is valid.
RELEASES: dict[str, Object] = {
    "cpu": {},
    "gpu": {
        "models": ["seresnext101_tensorrt_fp16", "seresnext101_onnx_trt_fp16"],
        "gpu": {"count": 1, "engineCacheClaim": "engines"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "nodeSelector": {"nvidia.com/gpu.present": "true"},
        "runtimeClassName": "nvidia",
        "strategy": {"maxUnavailable": 1, "maxSurge": 0},
    },
    "image": {"repository": {"type": "image", "image": {"reference": "registry.example/models:1"}}},
    "s3": {
        "repository": {
            "type": "s3",
            "s3": {
                "uri": "s3://https://minio.storage:9000/models",
                "secretName": "s3",
                "port": 9000,
            },
        },
        "verify": {"enabled": False},
    },
    "everything": {
        "replicas": 1,
        "autoscaling": {"enabled": True, "queueRatio": 1.5},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
        "image": {"digest": "sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "ngc"}],
        "podLabels": {"team": "vision"},
        "podAnnotations": {"example.com/note": "a"},
        "priorityClassName": "high",
        "affinity": {"nodeAffinity": {}},
        "extraArgs": ["--log-verbose=1"],
        "service": {"type": "LoadBalancer", "annotations": {"example.com/internal": "true"}},
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/r"}},
    },
    "nothing": {
        "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "serviceAccount": {"create": False},
        "topologySpread": False,
        "verify": {"enabled": False, "image": ""},
        "resources": {"requests": None, "limits": None},
    },
}


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("release", RELEASES)
def test_every_object_is_valid(release, kubernetes):
    objects = render(RELEASES[release])
    assert errors(objects, kubernetes) == []
    assert {"Deployment", "Service"} <= {each["kind"] for each in objects}


@pytest.mark.parametrize("release", RELEASES)
def test_lint_has_nothing_to_say(release):
    report = helm_python.lint(
        CHART, merged(VALUES, RELEASES[release]), strict=True, kube_version="v1.33.0"
    )
    assert report["errors"] == []
    assert [each["error"] for each in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"repository": {"pvc": {"claimName": ""}}}, "/repository/pvc/claimName"),
        ({"verify": {"image": ""}}, "/verify/image"),
        ({"repository": {"type": "nfs"}}, "/repository/type"),
        ({"repository": {"type": "image"}}, "/repository/image/reference"),
        ({"repository": {"type": "s3"}, "verify": {"enabled": False}}, "/repository/s3/uri"),
        ({"repository": {"type": "s3", "s3": {"uri": "s3://b/m"}}}, "/verify/enabled"),
        (
            {"repository": {"type": "s3", "s3": {"uri": "/b"}}, "verify": {"enabled": False}},
            "/repository/s3/uri",
        ),
        ({"replica": 3}, "'replica' not allowed"),
        ({"replicas": 0}, "/replicas"),
        ({"replicas": "3"}, "/replicas"),
        ({"models": []}, "/models"),
        ({"models": ["../etc"]}, "/models/0"),
        ({"models": ["m", "m"]}, "/models"),
        ({"sharedMemory": "1 GB"}, "/sharedMemory"),
        ({"resources": {"limits": {"memory": "4gb"}}}, "/resources/limits/memory"),
        ({"gpu": {"count": -1}}, "/gpu/count"),
        ({"ports": {"grpc": 70000}}, "/ports/grpc"),
        ({"image": {"digest": "26.07"}}, "/image/digest"),
        ({"shutdown": {"drainSeconds": 0}}, "/shutdown/drainSeconds"),
        ({"strategy": {"maxSurge": 0}}, "/strategy"),
        ({"extraArgs": ["-v"]}, "/extraArgs/0"),
        ({"serviceMonitor": {"interval": "15"}}, "/serviceMonitor/interval"),
        ({"autoscaling": {"enabled": True, "pendingRequests": None}}, "/autoscaling"),
        ({"autoscaling": {"pendingRequests": 0}}, "/autoscaling/pendingRequests"),
        ({"autoscaling": {"enabled": True, "minReplicas": 9}}, "must not be larger"),
        ({"ports": {"grpc": 8000}}, "must differ"),
    ],
    ids=json.dumps,
)
def test_a_value_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(helm_python.HelmError) as caught:
        render(values)
    assert message in str(caught.value)


TEMPLATES = "helm/seresnext101-triton/templates"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("deployment.yaml", "readinessProbe:", "readynessProbe:", "readynessProbe"),
        ("deployment.yaml", "maxUnavailable:", "maxUnavailables:", "maxUnavailables"),
        (
            "deployment.yaml",
            "      securityContext:",
            "      securityContexts:",
            "securityContexts",
        ),
        ("horizontalpodautoscaler.yaml", "autoscaling/v2", "autoscaling/v2beta2", "v2beta2"),
        ("networkpolicy.yaml", "[Ingress, Egress]", "Ingress", "policyTypes"),
        ("poddisruptionbudget.yaml", "AlwaysAllow", "[AlwaysAllow]", "unhealthyPodEvictionPolicy"),
        ("service.yaml", "port: {{ .Values.ports.grpc }}", "port: grpc", "port"),
        ("monitoring.yaml", "- port: metrics", "- ports: metrics", "ports"),
    ],
)
def test_a_planted_error_is_found(plant, file, old, new, message):
    copy = plant(f"{TEMPLATES}/{file}", old, new)
    objects = render(RELEASES["everything"], copy / "helm" / "seresnext101-triton")
    for kubernetes in KUBERNETES:
        found = errors(objects, kubernetes)
        assert found and message in "\n".join(found)


@pytest.mark.parametrize("release", RELEASES)
def test_every_container_is_closed(release):
    pod = of_kind(render(RELEASES[release]), "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    containers = pod["containers"] + pod.get("initContainers", [])
    for each in containers:
        context = each["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert all(mount["readOnly"] for mount in each["volumeMounts"] if mount["name"] == "models")


@pytest.mark.parametrize("release", RELEASES)
def test_every_mount_has_a_volume_and_every_volume_a_mount(release):
    pod = of_kind(render(RELEASES[release]), "Deployment")["spec"]["template"]["spec"]
    containers = pod["containers"] + pod.get("initContainers", [])
    mounted = {mount["name"] for each in containers for mount in each["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    shm = next(volume for volume in pod["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"]["medium"] == "Memory"


@pytest.mark.parametrize("release", RELEASES)
def test_selectors_select_the_pods(release):
    objects = render(RELEASES[release])
    labels = of_kind(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    named = {port["name"] for port in container(objects)["ports"]}
    services = [each for each in objects if each["kind"] == "Service"]
    assert len(services) == 2
    for service in services:
        assert service["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    for kind, key in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        for each in objects:
            if each["kind"] == kind:
                assert each["spec"][key]["matchLabels"].items() <= labels.items()
    for each in objects:
        if each["kind"] == "ServiceMonitor":
            wanted = each["spec"]["selector"]["matchLabels"].items()
            (only,) = (s for s in services if wanted <= s["metadata"]["labels"].items())
            assert {each["spec"]["endpoints"][0]["port"]} <= {
                port["name"] for port in only["spec"]["ports"]
            }


def test_the_pod_has_time_to_end():
    spec = of_kind(render({"shutdown": {"drainSeconds": 20, "timeoutSeconds": 60}}), "Deployment")
    pod = spec["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 20 + 60
    assert "--exit-timeout-secs=60" in pod["containers"][0]["args"]


def test_autoscaling_decides_the_number_of_pods():
    objects = render({"autoscaling": {"enabled": True, "queueRatio": 1.5}})
    assert "replicas" not in of_kind(objects, "Deployment")["spec"]
    metrics = of_kind(objects, "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert {
        each["pods"]["metric"]["name"]: each["pods"]["target"]["averageValue"] for each in metrics
    } == {"triton_pending_requests": "4", "triton_queue_ratio": "1.5"}


def test_engines_of_a_gpu_are_kept_where_the_configs_say():
    objects = render(RELEASES["gpu"])
    mounts = {mount["name"]: mount["mountPath"] for mount in container(objects)["volumeMounts"]}
    assert mounts["engines"] == ENGINE_CACHE
    assert container(objects)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "engines" not in {m["name"] for m in container(render())["volumeMounts"]}


def test_the_image_is_the_release_of_the_project():
    assert container(render())["image"] == f"nvcr.io/nvidia/tritonserver:{TRITON_RELEASE}-py3"
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == TRITON_RELEASE
    assert container(render(RELEASES["everything"]))["image"].endswith("@sha256:" + "0" * 64)


@pytest.mark.parametrize("name", ["vision", "seresnext101-triton", "a" * 53])
def test_names_have_at_most_63_characters(name):
    for each in render(RELEASES["everything"], name=name):
        assert re.fullmatch("[a-z0-9-]{1,63}", each["metadata"]["name"])


def test_a_new_revision_starts_new_pods():
    def annotations(revision: str) -> dict[str, str]:
        pod = of_kind(render({"repository": {"revision": revision}}), "Deployment")
        found: dict[str, str] = pod["spec"]["template"]["metadata"]["annotations"]
        return found

    assert annotations("7") != annotations("8") != annotations("")


def test_the_notes_name_the_service_that_is_rendered():
    objects = render()
    names = {each["metadata"]["name"] for each in objects if each["kind"] == "Service"}
    text = notes()
    assert all(f"{name}.ml" in text for name in names)
    assert "WARNING" not in text and "WARNING" in notes({"verify": {"enabled": False}})
