"""Runs engines of TensorRT for RTX (`model.engine`). No machine of this project could run one."""

from __future__ import annotations

import tensorrt_rtx_bindings as trt

from seresnext101_triton.server.runtimes.engine import EngineRuntime


class TensorRTRtx(EngineRuntime):
    """Engines in TensorRT for RTX, which compiles them for the GPU at hand when it loads them."""

    trt = trt
    product = "TensorRT for RTX"
    kind = "an engine of TensorRT for RTX"
