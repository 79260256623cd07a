"""Finds out whether OpenVINO's integer kernels compute exactly on this processor."""

from __future__ import annotations

from functools import cache

import numpy as np

from seresnext101_triton.server.runtimes.openvino_package import UNPINNED, core, openvino

operations = openvino.opset13

_CHANNELS = 64
_LARGEST = 255 * 127  # of one product; two of them are over the largest number of 16 bits, 32767


@cache
def adds_exactly() -> bool:
    """Run one INT8 convolution with the largest possible numbers, and check its sum.

    Processors without VNNI add two products of 8 bits in 16 bits (VPMADDUBSW), which saturates. A
    small trained network then classified 74 % of the images correctly, and 99 % with the same graph
    elsewhere (AMD Zen 3, OpenVINO 2026.4). The check takes 50 ms, once in a process. It respects an
    instruction set that is limited by ONEDNN_MAX_CPU_ISA.
    """
    images = operations.parameter([1, _CHANNELS, 1, 1], np.float32)
    bounds = (np.float32(bound) for bound in (0, 255, 0, 255))
    quantized = operations.fake_quantize(images, *bounds, 256)
    weights = operations.constant(np.full((_CHANNELS, _CHANNELS, 1, 1), 127, np.int8))
    scale = operations.constant(np.ones((_CHANNELS, 1, 1, 1), np.float32))
    scaled = operations.multiply(operations.convert(weights, "f32"), scale)
    sums = operations.convolution(quantized, scaled, [1, 1], [0, 0], [0, 0], [1, 1])
    model = openvino.Model([operations.result(sums)], [images])
    compiled = core().compile_model(model, "CPU", UNPINNED | {"INFERENCE_NUM_THREADS": 1})
    found = compiled.create_infer_request().infer([np.full((1, _CHANNELS, 1, 1), 255, np.float32)])[
        0
    ]
    # bfloat16 kernels round the sum; saturation halves it.
    return bool(np.allclose(found, _LARGEST * _CHANNELS, rtol=1e-2))
