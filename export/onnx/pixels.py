"""Puts the normalisation of pixels in front of a network's ONNX.

It comes last, behind a quantisation: what was measured and calibrated is the network itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.export.format import INPUT

_PREFIX = "pixels"


def prepend(source: Path, path: Path, preprocessing: Preprocessing) -> None:
    """Write a graph that takes pixels.

    Its operations are those of the client, in FP32 and in the same order.

    Args:
        source: A graph whose only input is normalised images, float32 [N, 3, H, W].
        path: Where the graph goes whose input is pixels, uint8 [N, H, W, 3].
        preprocessing: The mean and the standard deviation.
    """
    model = onnx.load(source)
    graph = model.graph
    (values,) = graph.input
    batch, _, height, width = (
        axis.dim_param or axis.dim_value for axis in values.type.tensor_type.shape.dim
    )
    for node in graph.node:
        node.input[:] = [f"{_PREFIX}_normalised" if name == INPUT else name for name in node.input]
    constants = {"white": [255.0], "mean": preprocessing.mean, "std": preprocessing.std}
    for name, numbers in constants.items():
        array = np.array(numbers, np.float32).reshape(1, -1, 1, 1)
        graph.initializer.append(numpy_helper.from_array(array, f"{_PREFIX}_{name}"))
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Cast", [INPUT], "float", {"to": TensorProto.FLOAT}),
        ("Transpose", [f"{_PREFIX}_float"], "planes", {"perm": [0, 3, 1, 2]}),
        ("Div", [f"{_PREFIX}_planes", f"{_PREFIX}_white"], "scaled", {}),
        ("Sub", [f"{_PREFIX}_scaled", f"{_PREFIX}_mean"], "centred", {}),
        ("Div", [f"{_PREFIX}_centred", f"{_PREFIX}_std"], "normalised", {}),
    ]
    for place, (operator, inputs, output, attributes) in enumerate(steps):
        name = f"{_PREFIX}_{output}"
        node = helper.make_node(operator, inputs, [name], name=name, **attributes)
        graph.node.insert(place, node)
    values.CopyFrom(
        helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [batch, height, width, 3])
    )
    onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)
