"""Where quantisation hurts: the noise it puts on each layer's output, all else being in FP32."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from seresnext101_triton.export.format import INPUT
from seresnext101_triton.export.quantization.qdq import Graph

_SHADOW = "int8/"


def noise(
    graph: Graph, quantized: onnx.ModelProto, images: Iterable[np.ndarray]
) -> dict[str, float]:
    """Of every quantised layer, the error of its output over the output, as root mean squares.

    Each layer of the FP32 graph is run a second time on its input and weights as INT8 holds them,
    in one session for all.

    Args:
        graph: The FP32 graph; not changed.
        quantized: What was made of it; not changed.
        images: float32 [3, H, W] each.

    Returns:
        By layer, the largest first.
    """
    shadows = onnx.ModelProto()
    shadows.CopyFrom(graph.model)
    target = shadows.graph
    names = [
        name for name, node in graph.layers.items() if _add_shadow(target, quantized.graph, node)
    ]
    outputs = [
        f"{_SHADOW}{graph.layers[name].name}/{kind}"
        for name in names
        for kind in ("error", "signal")
    ]
    target.output.extend(onnx.helper.make_empty_tensor_value_info(output) for output in outputs)
    session = onnxruntime.InferenceSession(
        shadows.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    squares = [np.array(session.run(outputs, {INPUT: image[None]}), np.float64) for image in images]
    sums = np.sum(squares, axis=0).reshape(-1, 2)
    ratios = np.sqrt(sums[:, 0] / np.maximum(sums[:, 1], 1e-30))
    return dict(sorted(zip(names, map(float, ratios), strict=True), key=lambda item: -item[1]))


def _add_shadow(target: onnx.GraphProto, quantized: onnx.GraphProto, layer: onnx.NodeProto) -> bool:
    """Add a second copy of a layer to the graph, as the quantised graph has it.

    Returns:
        False where the layer was left in FP32.
    """
    producers = {output: node for node in quantized.node for output in node.output}
    constants = {tensor.name: tensor for tensor in quantized.initializer}
    node = next(node for node in quantized.node if node.name == layer.name)
    dequantize, weights = producers.get(node.input[0]), producers.get(node.input[1])
    if dequantize is None or weights is None or weights.op_type != "DequantizeLinear":
        return False
    prefix = f"{_SHADOW}{layer.name}"

    def constant(name: str) -> str:
        copy = onnx.TensorProto()
        copy.CopyFrom(constants[name])
        copy.name = f"{prefix}/{name}"
        if all(copy.name != known.name for known in target.initializer):
            target.initializer.append(copy)
        return copy.name

    make = onnx.helper.make_node
    scale, zero = constant(dequantize.input[1]), constant(dequantize.input[2])
    again = onnx.NodeProto()
    again.CopyFrom(node)
    again.name = prefix
    again.input[0], again.input[1], again.output[0] = f"{prefix}/x", f"{prefix}/w", f"{prefix}/y"
    stored = numpy_helper.to_array(constants[weights.input[0]]).astype(np.float32)
    scales = numpy_helper.to_array(constants[weights.input[1]])
    target.initializer.append(
        numpy_helper.from_array(
            stored * scales.reshape(-1, *[1] * (stored.ndim - 1)), f"{prefix}/w"
        )
    )
    target.node.extend(
        [
            make("QuantizeLinear", [layer.input[0], scale, zero], [f"{prefix}/q"]),
            make("DequantizeLinear", [f"{prefix}/q", scale, zero], [f"{prefix}/x"]),
            again,
            make("Sub", [f"{prefix}/y", layer.output[0]], [f"{prefix}/difference"]),
            make("ReduceSumSquare", [f"{prefix}/difference"], [f"{prefix}/error"], keepdims=0),
            make("ReduceSumSquare", [layer.output[0]], [f"{prefix}/signal"], keepdims=0),
        ]
    )
    return True
