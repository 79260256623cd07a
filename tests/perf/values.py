"""Records for tests, with the circumstances of no real machine."""

from __future__ import annotations

from typing import Any

from seresnext101_triton.perf.records import (
    ComparisonRecord,
    Load,
    Machine,
    ModelDescription,
    Point,
    ServerUsage,
)
from seresnext101_triton.perf.turns import Ratio

MACHINE = Machine(cpu="A CPU", cores=2, memory_gb=8.0, gpu="", system="Linux")
CIRCUMSTANCES: dict[str, Any] = {
    "measured": "2026-01-01T00:00:00+00:00",
    "command": "python -m perf sweep --model m",
    "commit": "abc",
    "machine": MACHINE,
    "versions": {"torch": "2"},
}


def point(load: Load, throughput: float = 1.0, **changes: Any) -> Point:
    """A measured point, as a sweep stores it."""
    values: dict[str, Any] = {
        "model": ModelDescription(load.model, "1", "onnxruntime_onnx", "seeded", ""),
        "latency": {"p50": 10.0, "p90": 12.0, "p95": 13.0, "p99": 20.0},
        "phases": {"client send": 0.1, "queue": 2.0, "compute": 7.0},
        "stable": True,
        "generator_cpu": 0.1,
        "harness_cpu": 0.1,
        "server": ServerUsage(mean_batch=1.5, cores=1.9, memory_mib=400.0),
    }
    return Point(**CIRCUMSTANCES | values | {"load": load, "throughput": throughput} | changes)


def comparison(**changes: Any) -> ComparisonRecord:
    """A comparison of two contestants."""
    values: dict[str, Any] = {
        "command": "python -m perf compare a b",
        "rounds": 2,
        "turns": {"a": [10.0, 11.0], "b": [20.0, 21.0]},
        "batch": 1,
        "concurrency": 4,
        "ratios": {"b": Ratio(1.95, 1.9, 2.0)},
    }
    return ComparisonRecord(**CIRCUMSTANCES | values | changes)
