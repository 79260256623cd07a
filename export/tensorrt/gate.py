"""The gate between ONNX and TensorRT: what a strongly typed build takes for granted, checked before a GPU is asked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
from onnx import TensorProto

from export.errors import BuildError
from server.releases import Release

OPERATORS = {
    *("Conv", "Gemm", "Add", "Mul", "Relu", "Sigmoid", "Softmax", "MaxPool", "ReduceMean", "GlobalAveragePool"),
    *("Reshape", "Flatten", "Cast", "QuantizeLinear", "DequantizeLinear"),
}
_FLOATS: dict[int, str] = {TensorProto.FLOAT: "FP32", TensorProto.FLOAT16: "FP16", TensorProto.BFLOAT16: "BF16", TensorProto.DOUBLE: "FP64"}


def check_readable(path: Path, release: Release) -> None:
    """Refuse a graph that a release's ONNX Runtime and TensorRT cannot read.

    Raises:
        BuildError: Its opset or its IR is too new.
    """
    if faults := _version_faults(onnx.load(path), release):
        raise BuildError(f"{path.name} cannot be served: {'; '.join(faults)}")


def check_onnx(path: Path, precision: str, release: Release) -> None:
    """Refuse a graph that the release's runtimes cannot read, or whose types are not what was asked for.

    Args:
        path: The ONNX file.
        precision: `fp16` or `fp32`.
        release: What will build and serve it.

    Raises:
        BuildError: Every fault, in one message.
    """
    faults = _faults(onnx.load(path), precision, release)
    if faults:
        raise BuildError(f"{path.name} is not fit for TensorRT: {'; '.join(faults)}")


def _faults(model: onnx.ModelProto, precision: str, release: Release) -> list[str]:
    graph = model.graph
    faults = _version_faults(model, release)
    if unknown := {node.op_type for node in graph.node} - OPERATORS:
        faults.append(f"operators {', '.join(sorted(unknown))}")
    for tensor in (*graph.input, *graph.output):
        kind, dims = tensor.type.tensor_type.elem_type, tensor.type.tensor_type.shape.dim
        if kind != TensorProto.FLOAT:
            faults.append(f"{tensor.name} is {TensorProto.DataType.Name(kind)}, not FP32")
        if not dims or not dims[0].dim_param or any(dim.dim_param for dim in dims[1:]):
            faults.append(f"{tensor.name} has other free axes than the first")
    return faults + _type_faults(graph, precision)


def _version_faults(model: onnx.ModelProto, release: Release) -> list[str]:
    faults = []
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            faults.append(f"operators of domain {opset.domain}")
        elif opset.version > release.opset:
            faults.append(f"opset {opset.version}, and tritonserver {release.name} reads {release.opset}")
    if model.ir_version > release.ir:
        faults.append(f"IR {model.ir_version}, and tritonserver {release.name} reads {release.ir}")
    return faults


def _type_faults(graph: onnx.GraphProto, precision: str) -> list[str]:
    """FP16: one cast at each end, and one at each end of every FP32 island, which holds its weights in FP32. FP32: no cast at all."""
    casts = sum(node.op_type == "Cast" for node in graph.node)
    gates = sum(node.op_type == "Sigmoid" for node in graph.node)
    inside = _islands(graph)
    weights = Counter(
        _FLOATS.get(tensor.data_type, "other")
        for tensor in graph.initializer
        if tensor.data_type in _FLOATS and tensor.name not in inside and tensor.dims
    )
    wanted = {"fp16": "FP16", "fp32": "FP32"}[precision]
    faults = [f"{count} weights in {kind}" for kind, count in weights.items() if kind != wanted]
    allowed = {"fp16": (2, 2 + 2 * gates), "fp32": (0,)}[precision]
    if casts not in allowed:
        faults.append(f"{casts} casts, not {' or '.join(map(str, allowed))}")
    return faults


def _islands(graph: onnx.GraphProto) -> set[str]:
    """The weights that nodes behind a cast to FP32 use, up to the cast back."""
    single = {node.output[0] for node in graph.node if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT}
    weights: set[str] = set()
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    for node in graph.node:  # in topological order, as ONNX demands
        if node.op_type != "Cast" and single & set(node.input):
            single |= set(node.output)
            weights |= floats & set(node.input)
    return weights
