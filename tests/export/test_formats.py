"""What the exporters write."""

from __future__ import annotations

import json

import onnx
import pytest
import torch

from seresnext101_triton.client.contract import OutputKind
from seresnext101_triton.export.formats import FORMATS
from seresnext101_triton.export.served import ServedNetwork
from seresnext101_triton.export.weights.seeded import seeded_network
from seresnext101_triton.server.runtimes import RUNTIMES
from tests.conftest import TINY


def artifact(exported, model):
    outcome = next(outcome for outcome in exported if outcome.model == model)
    return outcome.artifact


@pytest.fixture(scope="module")
def graph(exported) -> onnx.ModelProto:
    return onnx.load(artifact(exported, "tiny_onnx"))


@pytest.fixture(scope="module")
def script(exported):
    return torch.jit.load(artifact(exported, "tiny_torchscript"))


def test_every_format_has_a_runtime():
    assert {format.runtime for format in FORMATS.values()} <= set(RUNTIMES)
    assert [(format.platform, format.filename) for format in FORMATS.values()] == [
        ("pytorch_libtorch", "model.pt"),
        ("torch_aoti", "model.pt2"),
        ("onnxruntime_onnx", "model.onnx"),
        ("onnxruntime_onnx", "model.onnx"),
        ("openvino", "model.xml"),
        ("tensorrt_plan", "model.plan"),
        ("tensorrt_rtx", "model.engine"),
    ]


def test_what_is_worth_serving_on_a_cpu_can_be_served_there():
    """`perf cpu` measures these."""
    for format in FORMATS.values():
        assert set(format.cpu_precisions) <= set(format.precisions)
        assert bool(format.cpu_precisions) == ("cpu" in format.devices)


def test_onnx_is_opset_18_in_one_file(graph, exported):
    assert [(opset.domain, opset.version) for opset in graph.opset_import if not opset.domain] == [
        ("", 18)
    ]
    assert graph.ir_version <= 10
    assert [
        path.name
        for path in artifact(exported, "tiny_onnx").parent.iterdir()
        if path.suffix != ".json"
    ] == ["model.onnx"]
    assert all(not initializer.external_data for initializer in graph.graph.initializer)


@pytest.mark.parametrize(
    ("tensors", "name", "dims"),
    [("input", "INPUT__0", [3, 64, 64]), ("output", "OUTPUT__0", [1000])],
)
def test_onnx_names_its_tensors_and_its_batch_axis(graph, tensors, name, dims):
    (tensor,) = getattr(graph.graph, tensors)
    batch, *rest = tensor.type.tensor_type.shape.dim
    assert (tensor.name, batch.dim_param, [axis.dim_value for axis in rest]) == (
        name,
        "batch",
        dims,
    )
    assert tensor.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_onnx_has_gates_of_pooling_and_1x1_convolutions_and_no_batch_norm(graph):
    """The convolutions of the small network.

    A stem, 5 blocks of 3 convolutions, 4 projections, and 2 convolutions in each of 5 gates.
    """
    count = {
        kind: sum(node.op_type == kind for node in graph.graph.node)
        for kind in {node.op_type for node in graph.graph.node}
    }
    assert count["Conv"] == 1 + 5 * 3 + 4 + 5 * 2
    assert count["Sigmoid"] == count["Mul"] == count["Add"] == 5
    assert count["Gemm"] == count["Softmax"] == 1
    assert count.get("ReduceMean", 0) + count.get("GlobalAveragePool", 0) == 5 + 1
    assert set(count) <= {
        "Conv",
        "Relu",
        "ReduceMean",
        "GlobalAveragePool",
        "Sigmoid",
        "Mul",
        "Add",
        "MaxPool",
        "Reshape",
        "Gemm",
        "Softmax",
    }


def test_onnx_tells_nothing_of_the_machine_it_was_made_on(graph):
    assert not any(node.metadata_props for node in graph.graph.node)
    assert b"/export/" not in graph.SerializeToString()


def test_torchscript_names_no_device(script):
    code = [line.partition("#")[0] for line in str(script.inlined_graph).splitlines()]
    assert not [line for line in code if "Device" in line or 'value="c' in line]
    assert "aten::to" not in {node.kind() for node in script.inlined_graph.nodes()}


def test_torchscript_is_frozen_and_folded(script):
    assert not list(script.parameters())
    kinds = {node.kind() for node in script.inlined_graph.nodes()}
    assert "aten::batch_norm" not in kinds
    assert "aten::softmax" in kinds


def test_torchscript_runs_channels_last_inside(script):
    weights = [value for value in constants(script) if value.ndim == 4 and value.shape[2] > 1]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def constants(script):
    graph = script.inlined_graph  # its nodes die with it
    for node in graph.findAllNodes("prim::Constant"):
        if node.hasAttribute("value") and node.kindOf("value") == "t":
            yield node.t("value")


def test_torchscript_tells_its_tensors(exported):
    entries = {"tensors.json": ""}
    torch.jit.load(artifact(exported, "tiny_torchscript"), _extra_files=entries)
    assert json.loads(entries["tensors.json"]) == {
        "INPUT__0": {"dims": [3, 64, 64], "dtype": "float32"},
        "OUTPUT__0": {"dims": [1000], "dtype": "float32"},
    }


def test_logits_have_no_softmax(exported):
    graph = torch.jit.load(artifact(exported, "logits_torchscript")).inlined_graph
    assert "aten::softmax" not in {node.kind() for node in graph.nodes()}


def test_folding_batch_norm_changes_nothing_but_the_graph():
    served = ServedNetwork(seeded_network(TINY, 0), OutputKind.LOGITS)
    folded = served.folded()
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in served.modules())
    with torch.no_grad():
        expected = served(images)
        assert (folded(images) - expected).abs().max() / expected.abs().max() < 2e-6
