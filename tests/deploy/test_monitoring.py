"""Rules, dashboard and adapter: by promtool, and with a real Prometheus and a real server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
import yaml

from seresnext101_triton.server.launcher import Server
from tests.conftest import FREE_PORTS, onnx_convolution, write_model
from tests.deploy.monitoring import (
    ELSEWHERE,
    MONITORING,
    POD,
    adapted,
    dashboard,
    exported_by,
    expressions,
    metrics_in,
    problems,
    prometheus,
    promtool,
)
from tests.deploy.objects import of_kind, render
from tests.waiting import until

RULES = "helm/seresnext101-triton/files/rules.yaml"


def test_promtool_accepts_the_rules_and_their_tests():
    for command in ("check rules rules.yaml", "test rules rules_test.yaml"):
        *words, file = command.split()
        result = promtool(*words, MONITORING / file)
        assert result.returncode == 0, result.stdout + result.stderr
    result = promtool("check", "config", MONITORING / "prometheus.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_has_a_test_in_which_it_fires():
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text())
    alerts = {
        rule["alert"]: rule
        for group in rules["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    tests = yaml.safe_load((MONITORING / "rules_test.yaml").read_text())["tests"]
    fired = {
        each["alertname"]
        for test in tests
        for each in test["alert_rule_test"]
        if each["exp_alerts"]
    }
    assert fired == set(alerts)
    for rule in alerts.values():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "action"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("clamp_max(", "clamp_max(("),
        ("for: 2m", "fro: 2m"),
        ("for: 2m", "for: 2"),
        ("ratio_rate1m > 2", "ratio_rate1m > 20"),
        ("nv_inference_queue_duration_us", "nv_inference_queue_duration_ms"),
        (',reason!="CANCELED"', ""),
        ("by (namespace, model, version)", "by (namespace, model)"),
        ("[30m]", "[30s]"),
    ],
)
def test_an_error_planted_in_the_rules_is_found(plant, old, new):
    copy = plant(RULES, old, new)
    assert promtool("test", "rules", copy / "monitoring" / "rules_test.yaml").returncode != 0


def test_the_charts_rules_are_these():
    objects = render({"prometheusRule": {"enabled": True}})
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text())
    assert of_kind(objects, "PrometheusRule")["spec"] == rules


@pytest.fixture(scope="module")
def metered(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two models: one to overload, and one whose process is killed."""
    folder = tmp_path_factory.mktemp("metered")
    shutil.copytree(repository / "tiny_onnx", folder / "tiny_onnx")
    config = """
        platform: "onnxruntime_onnx"  max_batch_size: 4
        input { name: "INPUT__0" data_type: TYPE_FP32 dims: [3, -1, -1] }
        output { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [2, -1, -1] }
        instance_group { kind: KIND_CPU count: 1 }
    """
    write_model(folder, "small", config, {"model.onnx": onnx_convolution((3, None, None))})
    with Server(folder, ports=FREE_PORTS) as running:
        yield running


@pytest.fixture(scope="module")
def known_metrics(metered: Server) -> set[str]:
    """The metrics of that server, and of those that the tests cannot have."""
    return exported_by(f"http://127.0.0.1:{metered.ports.metrics}/metrics") | ELSEWHERE


def test_every_metric_that_is_named_exists(known_metrics):
    for name in ("rules.yaml", "rules_test.yaml", "dashboard.json", "prometheus-adapter.yaml"):
        named = metrics_in((MONITORING / name).read_text())
        assert len(named) > 1
        assert named <= known_metrics, name


def test_the_dashboard_has_no_problem(known_metrics, tmp_path):
    assert problems(dashboard(), known_metrics, tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("nv_inference_exec_count", "nv_inference_execution_count", "no server has"),
        ('"id": 2,', '"id": 1,', "one id"),
        ('"x": 12,', '"x": 11,', "lies over"),
        ('"name": "datasource"', '"name": "source"', "no variable is called datasource"),
        ("clamp_max(", "clamp_max((", "parse error"),
        ("$model", "$modell", "no variable is called modell"),
    ],
)
def test_an_error_planted_in_the_dashboard_is_found(known_metrics, tmp_path, old, new, message):
    text = (MONITORING / "dashboard.json").read_text()
    assert old in text
    found = problems(json.loads(text.replace(old, new)), known_metrics, tmp_path)
    assert any(message in each for each in found)


def stub(server: Server, model: str) -> int:
    """The process in which the embedded server runs a model."""
    (found,) = (
        each.pid
        for each in psutil.Process(server.pid).children(recursive=True)
        if any(f"/{model}/" in word for word in each.cmdline())
    )
    return int(found)


@contextmanager
def flooded(url: str, model: str, image: np.ndarray, in_flight: int) -> Iterator[None]:
    """Keep a number of requests in flight. Their answers, and their errors, are thrown away."""
    tensor = triton.InferInput("INPUT__0", list(image.shape), "FP32")
    tensor.set_data_from_numpy(image)
    free = threading.Semaphore(in_flight)
    ended = threading.Event()
    with triton.InferenceServerClient(url) as client:

        def send() -> None:
            while not ended.is_set():
                free.acquire()
                client.async_infer(model, [tensor], lambda result, error: free.release())

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            for _ in range(in_flight):  # all have been answered
                free.acquire()


def test_prometheus_sees_an_overload_failures_and_the_end_of_the_server(metered, tmp_path):
    """One Prometheus for all of it, because it needs a window of samples before anything."""
    full, one = np.zeros((4, 3, 64, 64), np.float32), np.zeros((1, 3, 4, 4), np.float32)
    with prometheus(f"127.0.0.1:{metered.ports.metrics}", tmp_path) as watching:
        assert watching.firing() <= {"TritonAbsent"}
        with flooded(metered.url, "tiny_onnx", full, in_flight=64):
            assert until(lambda: "TritonQueueing" in watching.firing())
            values = {}
            for name, query in adapted().items():
                (found,) = watching.query(query)
                assert found["metric"] == {"pod": POD["pod"]}
                values[name] = float(found["value"][1])
            assert values["triton_pending_requests"] > 4 and values["triton_queue_ratio"] > 2
            for expression in expressions(dashboard()):
                if not metrics_in(expression) & ELSEWHERE and "ALERTS" not in expression:
                    assert watching.query(expression), expression
            assert watching.query('ALERTS{alertname="TritonQueueing"}')
            assert not watching.firing() & {"TritonFailures", "TritonNoSuccess", "TritonDown"}
        assert until(lambda: "TritonQueueing" not in watching.firing())

        with flooded(metered.url, "small", one, in_flight=1):
            os.kill(stub(metered, "small"), signal.SIGKILL)
            assert until(lambda: "TritonFailures" in watching.firing())

        metered.stop()
        assert until(lambda: "TritonDown" in watching.firing())
