"""Measures what serving costs: throughput, latency, and the ratios of two ways to get answers.

    from pathlib import Path

    from seresnext101_triton.perf import CompareOptions, Load, compare, measure, report

    points = measure([Load("seresnext101_onnx", concurrency=level) for level in (1, 2, 4)])
    comparison = compare(["raw:seresnext101_onnx", "seresnext101_onnx"], CompareOptions(rounds=4))
    print(points[0].throughput, comparison.ratio("seresnext101_onnx"))
    report(points, Path("perf/results"))

`measure` and `compare` need NVIDIA's perf_analyzer, which `python -m perf install` fetches. Without
a `url`, they start a server on the repository `model_repository`. The function
`seresnext101_triton.perf.results.read` reads files of results. Importing this package imports no
other package and changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seresnext101_triton.perf.comparison import CompareOptions, compare
    from seresnext101_triton.perf.errors import PerfError
    from seresnext101_triton.perf.records import Load, Measurement, Point
    from seresnext101_triton.perf.reporting import report
    from seresnext101_triton.perf.sweep import LoadGrid, measure
    from seresnext101_triton.perf.turns import Comparison, Ratio

__all__ = [
    "CompareOptions",
    "Comparison",
    "Load",
    "LoadGrid",
    "Measurement",
    "PerfError",
    "Point",
    "Ratio",
    "compare",
    "measure",
    "report",
]

_MODULES = {
    "CompareOptions": "seresnext101_triton.perf.comparison",
    "Comparison": "seresnext101_triton.perf.turns",
    "Load": "seresnext101_triton.perf.records",
    "LoadGrid": "seresnext101_triton.perf.sweep",
    "Measurement": "seresnext101_triton.perf.records",
    "PerfError": "seresnext101_triton.perf.errors",
    "Point": "seresnext101_triton.perf.records",
    "Ratio": "seresnext101_triton.perf.turns",
    "compare": "seresnext101_triton.perf.comparison",
    "measure": "seresnext101_triton.perf.sweep",
    "report": "seresnext101_triton.perf.reporting",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `python -m perf --help` is fast."""
    if name not in _MODULES:
        raise AttributeError(f"module 'perf' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
