"""What a graph is held to before any runtime gets it.

Every ONNX must be readable by the release that will serve it. A quantised graph, and one that a
TensorRT plan is built from, must also have the types that a strongly typed build takes for granted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from seresnext101_triton.export.errors import BuildError
from seresnext101_triton.export.precision import Precision
from seresnext101_triton.server.releases import Release

OPERATORS = {
    *(
        "Conv",
        "Gemm",
        "Add",
        "Mul",
        "Relu",
        "Sigmoid",
        "Softmax",
        "Transpose",
        "Sub",
        "Div",
        "MaxPool",
        "ReduceMean",
        "GlobalAveragePool",
    ),
    *("Reshape", "Flatten", "Cast", "QuantizeLinear", "DequantizeLinear"),
}
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_FLOATS: dict[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.DOUBLE: "FP64",
}
_NAMES = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16"}  # of torch dtypes


def check_readable(path: Path, release: Release) -> None:
    """Refuse a graph that a release's ONNX Runtime and TensorRT cannot read.

    Raises:
        BuildError: Its opset or its IR is too new.
    """
    if faults := _version_faults(onnx.load(path), release):
        raise BuildError(f"{path.name} cannot be served: {'; '.join(faults)}")


def check_onnx(path: Path, precision: Precision, release: Release) -> None:
    """Refuse a graph that the release cannot read, or whose types are not the precision's.

    Args:
        path: The ONNX file.
        precision: Of the network that the graph was made from. A quantised one has FP32 weights and
            Q/DQ pairs by TensorRT's rules.
        release: What will build and serve it.

    Raises:
        BuildError: Every fault, in one message.
    """
    faults = _faults(onnx.load(path), precision, release)
    if faults:
        raise BuildError(f"{path.name} is not fit for TensorRT: {'; '.join(faults)}")


def _faults(model: onnx.ModelProto, precision: Precision, release: Release) -> list[str]:
    graph = model.graph
    faults = _version_faults(model, release)
    if unknown := {node.op_type for node in graph.node} - OPERATORS:
        faults.append(f"operators {', '.join(sorted(unknown))}")
    for tensor in (*graph.input, *graph.output):
        kind, dims = tensor.type.tensor_type.elem_type, tensor.type.tensor_type.shape.dim
        if kind != TensorProto.FLOAT and not (kind == TensorProto.UINT8 and tensor in graph.input):
            faults.append(f"{tensor.name} is {TensorProto.DataType.Name(kind)}, not FP32")
        if not dims or not dims[0].dim_param or any(dim.dim_param for dim in dims[1:]):
            faults.append(f"{tensor.name} has other free axes than the first")
    return (
        faults
        + _type_faults(graph, precision)
        + (_quantization_faults(graph) if precision.quantized else [])
    )


def _version_faults(model: onnx.ModelProto, release: Release) -> list[str]:
    faults = []
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            faults.append(f"operators of domain {opset.domain}")
        elif opset.version > release.opset:
            faults.append(
                f"opset {opset.version}, and tritonserver {release.name} reads {release.opset}"
            )
    if model.ir_version > release.ir:
        faults.append(f"IR {model.ir_version}, and tritonserver {release.name} reads {release.ir}")
    return faults


def _type_faults(graph: onnx.GraphProto, precision: Precision) -> list[str]:
    """Weights of another type than the precision's, and casts where there should be none.

    A network that was cast has one cast at each end, and one at each end of every squeeze that is
    kept in FP32 with its weights. An FP32 network has no cast at all. A network that takes pixels
    has one more.
    """
    pixels = any(tensor.type.tensor_type.elem_type == TensorProto.UINT8 for tensor in graph.input)
    casts = sum(node.op_type == "Cast" for node in graph.node) - pixels
    gates = sum(node.op_type == "Sigmoid" for node in graph.node)
    inside = _fp32_squeeze_weights(graph)
    weights = Counter(
        _FLOATS.get(tensor.data_type, "other")
        for tensor in graph.initializer
        if tensor.data_type in _FLOATS and tensor.name not in inside and tensor.dims
    )
    wanted = _NAMES[precision.made_in]
    faults = [f"{count} weights in {kind}" for kind, count in weights.items() if kind != wanted]
    allowed = (2, 2 + 2 * gates) if precision.is_cast else (0,)
    if casts not in allowed:
        faults.append(f"{casts} casts, not {' or '.join(map(str, allowed))}")
    return faults


def _quantization_faults(graph: onnx.GraphProto) -> list[str]:
    """What TensorRT refuses in a quantised graph, or runs slowly.

    Sources: NVIDIA/onnx-tensorrt, `QuantDequantLinearHelper`; TensorRT issue 1992 for the sums.
    """
    producers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    faults = [
        fault
        for node in graph.node
        if node.op_type in _QDQ
        for fault in _pair_faults(node, constants)
    ]

    def source(tensor: str) -> str:
        return producers[tensor].op_type if tensor in producers else ""

    for node in graph.node:
        if (
            node.op_type in ("Conv", "Gemm")
            and len(node.input) > 2
            and node.input[2] not in constants
        ):
            faults.append(f"the bias of {node.name} is no FP32 constant")
        if node.op_type in ("Conv", "Gemm") and (source(node.input[0]) in _QDQ) != (
            source(node.input[1]) in _QDQ
        ):
            faults.append(f"{node.name} has either its input or its weights in INT8, not both")
        if node.op_type in ("Sigmoid", "Mul", "ReduceMean", "Softmax") and any(
            source(name) in _QDQ for name in node.input
        ):
            faults.append(f"{node.name}, which belongs in floating point, has an input in INT8")
        if node.op_type == "Add" and [source(name) in _QDQ for name in node.input].count(True) != 1:
            faults.append(f"{node.name} wants its identity in INT8, and that only")
    if not any(node.op_type in _QDQ for node in graph.node):
        faults.append("nothing in it is quantised")
    return faults


def _pair_faults(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> list[str]:
    if len(node.input) < 3 or not {node.input[1], node.input[2]} <= constants.keys():
        return [f"{node.name} has no constant scale and zero point"]
    scale, zero = constants[node.input[1]], constants[node.input[2]]
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    faults = []
    if zero.dtype != np.int8 or zero.any():
        faults.append(
            f"{node.name} has zero points of {zero.dtype} up to {np.abs(zero.astype(int)).max()}, "
            "not INT8's 0"
        )
    if not (scale > 0).all():
        faults.append(f"{node.name} has a scale that is not over 0")
    if scale.ndim and scale.size > 1:
        weights = constants.get(node.input[0])
        if weights is None:
            faults.append(f"{node.name} has a scale for each channel of an activation")
        elif axis != 0 or weights.shape[0] != scale.size:
            faults.append(
                f"{node.name} has {scale.size} scales on axis {axis} of weights "
                f"{list(weights.shape)}"
            )
    return faults


def _fp32_squeeze_weights(graph: onnx.GraphProto) -> set[str]:
    """The weights that nodes behind a cast to FP32 use, up to the cast back."""
    single = {
        node.output[0]
        for node in graph.node
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT
    }
    weights: set[str] = set()
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    for node in graph.node:  # in topological order, as ONNX demands
        if node.op_type != "Cast" and single & set(node.input):
            single |= set(node.output)
            weights |= floats & set(node.input)
    return weights
