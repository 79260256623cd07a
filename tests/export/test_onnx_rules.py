"""Every rule for an ONNX, on graphs of a few nodes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from seresnext101_triton.export.errors import BuildError
from seresnext101_triton.export.onnx.gate import _faults, check_onnx, check_readable
from seresnext101_triton.export.precision import BF16, FP16, FP32, INT8, Precision
from seresnext101_triton.server.releases import release

RELEASE = release("24.10")  # reads opset 20 and IR 10
FLOAT, HALF, BYTE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8

Change = Callable[[onnx.ModelProto], object]


def model(*nodes: onnx.NodeProto, kind: int = FLOAT, **constants: np.ndarray) -> onnx.ModelProto:
    """A model with one input, INPUT__0, and one output, OUTPUT__0."""
    tensors = [
        helper.make_tensor_value_info(name, each, ["batch", 3, 8, 8])
        for name, each in (("INPUT__0", kind), ("OUTPUT__0", FLOAT))
    ]
    values = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", tensors[:1], tensors[1:], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def node(kind: str, *inputs: str, to: int = 0, **attributes: object) -> onnx.NodeProto:
    """A node whose output has its name, the kind in small letters; a digit behind it is its own."""
    options = {"to": to} if to else attributes
    operator = kind.rstrip("0123456789")
    return helper.make_node(operator, inputs, [kind.lower()], kind.lower(), **options)


def weights(dtype: type = np.float32) -> np.ndarray:
    return np.ones((3, 3, 1, 1), dtype)


def plain(**constants: np.ndarray) -> onnx.ModelProto:
    nodes = node("Conv", "INPUT__0", "w"), node("Relu", "conv")
    return model(*nodes, kind=FLOAT, w=weights(), **constants)


def faults(found: onnx.ModelProto, precision: Precision = FP32) -> list[str]:
    return _faults(found, precision, RELEASE)


def test_a_graph_that_keeps_all_rules(tmp_path):
    assert faults(plain()) == faults(plain(), BF16) == []
    path = tmp_path / "model.onnx"
    onnx.save(plain(), path)
    check_onnx(path, FP32, RELEASE)
    check_readable(path, RELEASE)


@pytest.mark.parametrize(
    ("domain", "opset", "ir", "expected"),
    [
        ("", 20, 10, []),
        ("ai.onnx", 19, 9, []),
        ("", 21, 10, ["opset 21, and tritonserver 24.10 reads 20"]),
        ("com.microsoft", 1, 10, ["operators of domain com.microsoft"]),
        ("", 20, 11, ["IR 11, and tritonserver 24.10 reads 10"]),
        (
            *("ai.onnx", 30, 12),
            ["opset 30, and tritonserver 24.10 reads 20", "IR 12, and tritonserver 24.10 reads 10"],
        ),
    ],
)
def test_what_a_release_can_read(tmp_path, domain, opset, ir, expected):
    found = plain()
    found.opset_import[0].CopyFrom(helper.make_opsetid(domain, opset))
    found.ir_version = ir
    assert faults(found) == expected
    path = tmp_path / "model.onnx"
    onnx.save(found, path)
    if expected:
        for check, words in (
            (lambda: check_readable(path, RELEASE), "cannot be served"),
            (lambda: check_onnx(path, FP32, RELEASE), "is not fit for TensorRT"),
        ):
            with pytest.raises(BuildError) as error:
                check()
            assert str(error.value) == f"model.onnx {words}: {'; '.join(expected)}"
    else:
        check_readable(path, RELEASE)


def axes(tensor: onnx.ValueInfoProto, *dims: int | str) -> None:
    kind = tensor.type.tensor_type.elem_type
    tensor.CopyFrom(helper.make_tensor_value_info(tensor.name, kind, dims))


def of_kind(tensor: onnx.ValueInfoProto, kind: int) -> None:
    tensor.type.tensor_type.elem_type = kind


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda found: axes(found.graph.input[0], "batch", 1), []),
        (lambda found: axes(found.graph.input[0], 1, 3), ["INPUT__0 has other free axes than"]),
        (lambda found: axes(found.graph.output[0], "b", "x"), ["OUTPUT__0 has other free axes"]),
        (lambda found: axes(found.graph.output[0], "b", 3, "x"), ["OUTPUT__0 has other free axes"]),
        (lambda found: axes(found.graph.output[0]), ["OUTPUT__0 has other free axes than"]),
        (lambda found: of_kind(found.graph.input[0], HALF), ["INPUT__0 is FLOAT16, not FP32"]),
        (lambda found: of_kind(found.graph.output[0], HALF), ["OUTPUT__0 is FLOAT16, not FP32"]),
        (lambda found: of_kind(found.graph.output[0], BYTE), ["OUTPUT__0 is UINT8, not FP32"]),
        (
            lambda found: found.graph.node.extend([node("Tanh"), node("Sin"), node("Tanh2")]),
            ["operators Sin, Tanh"],
        ),
    ],
)
def test_tensors_and_operators(change: Change, expected):
    found = plain()
    change(found)
    said = faults(found)
    assert len(said) == len(expected)
    assert all(text.startswith(start) for text, start in zip(said, expected, strict=True))


def test_weights_of_another_type_are_counted():
    assert faults(plain(v=weights(np.float16), u=weights(np.float16))) == ["2 weights in FP16"]
    others = {"v": weights(np.float16), "u": weights(np.float64)}
    assert faults(plain(**others)) == ["1 weights in FP16", "1 weights in FP64"]
    # A scalar, and a constant that is no weight.
    assert faults(plain(v=np.array(1, np.float16), u=np.ones(3, np.int64))) == []


@pytest.mark.parametrize(
    ("casts", "gates", "kind", "precision", "expected"),
    [
        (0, 0, FLOAT, FP32, []),
        (1, 0, FLOAT, FP32, ["1 casts, not 0"]),
        (1, 0, BYTE, FP32, []),
        (0, 0, BYTE, FP32, ["-1 casts, not 0"]),
        (2, 3, FLOAT, FP16, []),
        (8, 3, FLOAT, FP16, []),
        (3, 0, BYTE, FP16, []),
        (4, 3, FLOAT, FP16, ["4 casts, not 2 or 8"]),
        (2, 0, FLOAT, BF16, ["2 casts, not 0"]),
    ],
)
def test_how_many_casts_a_graph_has(casts, gates, kind, precision, expected):
    nodes = [node(f"Cast{number}", "INPUT__0", to=HALF) for number in range(casts)]
    nodes += [node(f"Sigmoid{number}", "INPUT__0") for number in range(gates)]
    assert faults(model(*nodes, kind=kind), precision) == expected


def test_squeezes_that_stay_in_fp32_have_fp32_weights():
    """From a cast to FP32 up to the cast back."""
    found = model(
        node("Cast1", "INPUT__0", to=HALF),
        node("Conv1", "cast1", "narrow"),
        node("Cast2", "conv1", to=FLOAT),
        node("Conv2", "cast2", "wide"),
        node("Sigmoid", "conv2", "wider"),
        node("Cast3", "sigmoid", to=HALF),
        node("Conv3", "cast3", "narrow"),
        node("Cast4", "conv3", to=FLOAT),
        narrow=weights(np.float16),
        wide=weights(),
        wider=weights(),
        wrong=weights(),
    )
    assert faults(found, FP16) == ["1 weights in FP32"]
    found.graph.node[6].input[1] = "wrong"  # a weight in FP32 behind the cast back
    assert faults(found, FP16) == ["1 weights in FP32"]
    del found.graph.initializer[-1]
    assert faults(found, FP16) == []


def quantised() -> onnx.ModelProto:
    """A convolution of INT8, and a sum that has its identity in INT8."""
    return model(
        node("QuantizeLinear1", "INPUT__0", "scale", "zero"),
        node("DequantizeLinear1", "quantizelinear1", "scale", "zero"),
        node("DequantizeLinear2", "w", "scales", "zeros", axis=0),
        node("Conv", "dequantizelinear1", "dequantizelinear2", "bias"),
        node("Mul", "conv", "conv"),
        node("Add", "mul", "dequantizelinear1"),
        scale=np.array(0.5, np.float32),
        zero=np.array(0, np.int8),
        w=np.ones((3, 3, 1, 1), np.int8),
        scales=np.ones(3, np.float32),
        zeros=np.zeros(3, np.int8),
        bias=np.ones(3, np.float32),
    )


def constant(name: str, value: np.ndarray) -> Change:
    def change(found: onnx.ModelProto) -> None:
        tensor = next(each for each in found.graph.initializer if each.name == name)
        tensor.CopyFrom(numpy_helper.from_array(value, name))

    return change


def wired(name: str, place: int, source: str) -> Change:
    def change(found: onnx.ModelProto) -> None:
        next(each for each in found.graph.node if each.name == name).input[place] = source

    return change


def unpaired(found: onnx.ModelProto) -> None:
    del found.graph.node[0].input[2]


def without_axis(found: onnx.ModelProto) -> None:
    del found.graph.node[2].attribute[:]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda found: None, []),
        (
            constant("zero", np.array(0, np.uint8)),
            ["quantizelinear1 has zero points of uint8 up to 0"],
        ),
        (
            constant("zeros", np.array([0, -3, 1], np.int8)),
            ["has zero points of int8 up to 3, not"],
        ),
        (
            constant("scale", np.array(0, np.float32)),
            ["quantizelinear1 has a scale that is not ov"],
        ),
        (
            constant("scales", np.array([1, -1, 1], np.float32)),
            ["dequantizelinear2 has a scale that"],
        ),
        (
            constant("scale", np.ones(3, np.float32)),
            ["quantizelinear1 has a scale for each channel"],
        ),
        (constant("scale", np.ones(1, np.float32)), []),
        (
            constant("scales", np.ones(2, np.float32)),
            ["has 2 scales on axis 0 of weights [3, 3, 1, 1"],
        ),
        (without_axis, ["dequantizelinear2 has 3 scales on axis 1 of weights [3, 3, 1, 1]"]),
        (unpaired, ["quantizelinear1 has no constant scale and zero point"]),
        (
            wired("quantizelinear1", 1, "INPUT__0"),
            ["quantizelinear1 has no constant scale and zero"],
        ),
        (
            wired("quantizelinear1", 2, "INPUT__0"),
            ["quantizelinear1 has no constant scale and zero"],
        ),
        (wired("conv", 2, "dequantizelinear1"), ["the bias of conv is no FP32 constant"]),
        (
            wired("conv", 0, "INPUT__0"),
            ["conv has either its input or its weights in INT8, not both"],
        ),
        (
            wired("conv", 1, "scales"),
            ["conv has either its input or its weights in INT8, not both"],
        ),
        (
            wired("mul", 1, "dequantizelinear1"),
            ["mul, which belongs in floating point, has an input"],
        ),
        (wired("add", 1, "conv"), ["add wants its identity in INT8, and that only"]),
        (wired("add", 0, "dequantizelinear1"), ["add wants its identity in INT8, and that only"]),
    ],
)
def test_quantised_graphs(change: Change, expected):
    found = quantised()
    change(found)
    said = faults(found, INT8)
    if expected and "quantizelinear1 has" in expected[0] and "no constant" not in expected[0]:
        expected = [*expected, "dequantizelinear1"]  # the pair has one scale and one zero point
    assert len(said) == len(expected)
    assert all(start in text for text, start in zip(said, expected, strict=True))


def test_a_graph_without_int8_is_not_quantised():
    assert faults(plain(), INT8) == ["nothing in it is quantised"]
    for kind in ("Sigmoid", "ReduceMean", "Softmax"):
        found = quantised()
        found.graph.node.append(node(kind, "dequantizelinear1"))
        (said,) = faults(found, INT8)
        assert said == f"{kind.lower()}, which belongs in floating point, has an input in INT8"
