"""Finds out whether OpenVINO can be asked for bfloat16 on this processor."""

from __future__ import annotations

from functools import cache

import numpy as np

from seresnext101_triton.server.runtimes.openvino_package import UNPINNED, core, openvino

operations = openvino.opset13


@cache
def can_be_asked_for() -> bool:
    """Compile and run a convolution and a pooling with the hint for bfloat16.

    OpenVINO asks the processor for bfloat16 units, and computes in FP32 if it has none. The kernels
    also obey ONEDNN_MAX_CPU_ISA. If that forbids the units which the processor has, OpenVINO 2026.4
    finds no kernel for some layers, or fails when it runs them.
    """
    images = operations.parameter([1, 32, 8, 8], np.float32)
    weights = operations.constant(np.ones((32, 32, 3, 3), np.float32))
    sums = operations.convolution(images, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    largest = operations.max_pool(sums, [2, 2], [1, 1], [0, 0], [0, 0], [3, 3])
    model = openvino.Model([operations.result(largest.output(0))], [images])
    hint = UNPINNED | {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": 1}
    try:
        request = core().compile_model(model, "CPU", hint).create_infer_request()
        request.infer([np.ones((1, 32, 8, 8), np.float32)])
    except RuntimeError:
        return False
    return True
