"""Runs TensorRT plans (`model.plan`)."""

from __future__ import annotations

import tensorrt as trt

from seresnext101_triton.server.runtimes.engine import EngineRuntime


class TensorRT(EngineRuntime):
    """Plans in TensorRT."""

    trt = trt
    product = "TensorRT"
    kind = "a TensorRT plan"
