"""What goes to TensorRT: opset, operators, types, axes and casts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from seresnext101_triton.export.errors import BuildError
from seresnext101_triton.export.onnx.gate import check_onnx, check_readable
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.precision import FP16, FP32
from seresnext101_triton.server.releases import RELEASES, release
from tests.conftest import QUIET, tiny_request

CURRENT = release("26.07")


@pytest.mark.parametrize("name", RELEASES)
def test_every_known_release_reads_what_is_exported(half_onnx, name):
    check_onnx(half_onnx, FP16, release(name))


def test_fp32(tmp_path):
    (outcome,) = export(tiny_request(tmp_path / "models", formats=("onnx",)), QUIET)
    check_onnx(outcome.artifact, FP32, CURRENT)


def test_fp32_squeezes(tmp_path):
    request = tiny_request(
        tmp_path / "models", formats=("onnx",), precision="fp16", fp32_squeeze=True
    )
    (outcome,) = export(request, QUIET)
    check_onnx(outcome.artifact, FP16, CURRENT)
    graph = onnx.load(outcome.artifact).graph
    assert sum(node.op_type == "Cast" for node in graph.node) == 2 + 2 * 5
    producers = {node.output[0]: node for node in graph.node}
    for node in graph.node:
        if node.op_type == "Sigmoid":
            assert [use.op_type for use in graph.node if node.output[0] in use.input] == ["Cast"]
    pooled = [
        producers[node.input[0]].op_type for node in graph.node if node.op_type == "ReduceMean"
    ]
    assert pooled.count("Cast") == 5


def test_fp16_is_fp32_at_both_ends_and_in_the_softmax(half_onnx):
    graph = onnx.load(half_onnx).graph
    assert [tensor.type.tensor_type.elem_type for tensor in (*graph.input, *graph.output)] == [
        TensorProto.FLOAT
    ] * 2
    first, last = [node for node in graph.node if node.op_type == "Cast"]
    assert list(first.input) == ["INPUT__0"]
    assert [
        (node.op_type, list(node.input)) for node in graph.node if last.output[0] in node.input
    ] == [("Softmax", [last.output[0]])]
    assert (first.attribute[0].i, last.attribute[0].i) == (TensorProto.FLOAT16, TensorProto.FLOAT)


def an_operator(model):
    model.graph.node[1].op_type = "Softplus"


def an_fp32_weight(model):
    weight = next(
        tensor
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT16 and tensor.dims
    )
    array = numpy_helper.to_array(weight).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))


def another_cast(model):
    model.graph.node.append(
        helper.make_node("Cast", [model.graph.output[0].name], ["again"], to=TensorProto.FLOAT16)
    )


def an_fp16_end(model):
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def a_free_height(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"


def a_fixed_batch(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def a_new_opset(model):
    model.opset_import[0].version = 99


def a_new_ir(model):
    model.ir_version = 13


def another_domain(model):
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (an_operator, "operators Softplus"),
        (an_fp32_weight, "1 weights in FP32"),
        (another_cast, "3 casts, not 2 or 12"),
        (an_fp16_end, "OUTPUT__0 is FLOAT16, not FP32"),
        (a_free_height, "INPUT__0 has other free axes than the first"),
        (a_fixed_batch, "INPUT__0 has other free axes than the first"),
        (a_new_opset, "opset 99, and tritonserver 26.07 reads 22"),
        (a_new_ir, "IR 13, and tritonserver 26.07 reads 10"),
        (another_domain, "operators of domain com.microsoft"),
    ],
)
def test_what_is_not_let_through(half_onnx, tmp_path, change, fault):
    model = onnx.load(half_onnx)
    change(model)
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(BuildError, match=f"changed.onnx is not fit for TensorRT: .*{fault}"):
        check_onnx(tmp_path / "changed.onnx", FP16, CURRENT)


def test_a_graph_in_the_wrong_precision(half_onnx):
    with pytest.raises(BuildError, match=r"62 weights in FP16; 2 casts, not 0"):
        check_onnx(half_onnx, FP32, CURRENT)


def test_onnx_that_the_targets_runtimes_cannot_read_is_not_served(half_onnx):
    with pytest.raises(
        BuildError, match="model.onnx cannot be served: opset 18, and tritonserver 26.07 reads 17"
    ):
        check_readable(half_onnx, replace(CURRENT, opset=17))
