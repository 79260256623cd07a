"""The quantised graph: ONNX Runtime's quantiser, told TensorRT's rules.

Every convolution outside the Squeeze-and-Excitations, and the last layer, takes its input and its
weights through a QuantizeLinear and a DequantizeLinear: symmetric, INT8, zero points 0, one scale
for each of the weights' channels, biases in FP32. Outputs have none, so that a runtime can fuse
what follows; but the identity of every residual sum has, so that the sum can be fused into the
convolution before it (NVIDIA's advice in TensorRT issue 1992, and what its ModelOpt does).

ONNX Runtime's quantiser was chosen over NNCF and ModelOpt: it takes ranges from outside and a list
of nodes, both of which make the rules above exact, and it is a part of a package that is here
already; ModelOpt drives the same one. NNCF 3.4, with its defaults, on the full network, was as fast
in OpenVINO (37.0 images a second; this graph 37.3) and agreed with FP32 as often, but it quantises
half of the Squeeze-and-Excitations, and its result is OpenVINO's only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

LARGEST = 127  # of INT8, with -128 unused: symmetric

_QUANTIZED = ("Conv", "Gemm")


class Graph:
    """What of an FP32 graph can be quantised.

    Args:
        model: The exported ONNX.

    Attributes:
        model: The same.
        layers: Name of each layer to be quantised, as the network calls it, and its node.
        identities: Names of the tensors that residual sums add to what the block computed.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._producers = {output: node for node in model.graph.node for output in node.output}
        self.layers = {
            _layer_name(node): node
            for node in model.graph.node
            if node.op_type in _QUANTIZED and not self._in_squeeze(node)
        }
        self.identities = {
            self.identity(node) for node in model.graph.node if node.op_type == "Add"
        }

    @property
    def tensors(self) -> list[str]:
        """Everything that statistics are wanted of: inputs of layers, and identities."""
        return sorted({node.input[0] for node in self.layers.values()} | self.identities)

    def identity(self, add: onnx.NodeProto) -> str:
        """The input of a residual sum that is not the gated branch."""
        gated, identity = sorted(add.input, key=lambda name: self._operator(name) != "Mul")
        assert self._operator(gated) == "Mul" != self._operator(identity)
        return identity

    def _operator(self, tensor: str) -> str:
        return self._producers[tensor].op_type if tensor in self._producers else ""

    def _in_squeeze(self, node: onnx.NodeProto) -> bool:
        """Whether a convolution's input is a mean over all positions.

        The second convolution of a Squeeze-and-Excitation gets it through the first.
        """
        source = self._producers.get(node.input[0])
        if node.op_type != "Conv" or source is None:
            return False
        if source.op_type == "Relu":
            source = self._producers[source.input[0]]
            return source.op_type == "Conv" and self._operator(source.input[0]) in (
                "ReduceMean",
                "GlobalAveragePool",
            )
        return source.op_type in ("ReduceMean", "GlobalAveragePool")


def write(
    graph: Graph, thresholds: Mapping[str, float], keep_fp32: Collection[str], path: Path
) -> None:
    """Quantise a graph into a file.

    Args:
        graph: The FP32 graph; not changed.
        thresholds: For each of `graph.tensors`, the largest magnitude that INT8 shall hold.
        keep_fp32: Layers that stay as they are.
        path: Where it goes.
    """
    ranges = {
        name: TensorData(lowest=np.float32(-bound), highest=np.float32(bound))
        for name, bound in thresholds.items()
    }
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    options = {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "AddQDQPairToWeight": False,
        "DedicatedQDQPair": False,
        "OpTypesToExcludeOutputQuantization": sorted({node.op_type for node in model.graph.node}),
        # PyTorch's exporter writes the last layer's weights as [classes, channels].
        "QDQOpTypePerChannelSupportToAxis": {"Conv": 0, "Gemm": 0},
        "QDQDisableWeightAdjustForInt32Bias": True,
    }
    nodes = [node.name for name, node in graph.layers.items() if name not in keep_fp32]
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=nodes,
        nodes_to_exclude=[],
        op_types_to_quantize=list(_QUANTIZED),
        extra_options=options,
    )
    quantizer.quantize_model()
    quantized = quantizer.model
    _quantize_identities(quantized.model.graph, graph, thresholds)
    quantized.topological_sort()
    onnx.save(quantized.model, path)
    onnx.checker.check_model(str(path), full_check=True)


def _quantize_identities(
    graph: onnx.GraphProto, source: Graph, thresholds: Mapping[str, float]
) -> None:
    """Quantise the identities that are not a quantised layer's input as well.

    Those are the projections of a stage's first block.
    """
    make = onnx.helper.make_node
    for add in [node for node in graph.node if node.op_type == "Add"]:
        for index, name in enumerate(add.input):
            if name in source.identities:
                pair = f"{name}_identity"
                scale, zero, stored = f"{pair}_scale", f"{pair}_zero_point", f"{pair}_int8"
                graph.initializer.append(
                    numpy_helper.from_array(np.array(thresholds[name] / LARGEST, np.float32), scale)
                )
                graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), zero))
                graph.node.append(
                    make("QuantizeLinear", [name, scale, zero], [stored], f"{pair}_q")
                )
                graph.node.append(
                    make("DequantizeLinear", [stored, scale, zero], [pair], f"{pair}_dq")
                )
                add.input[index] = pair


def _layer_name(node: onnx.NodeProto) -> str:
    """The network's own name of a layer.

    It is the name of the layer's weights, `network.layers.0.0.conv1.weight`, without both ends.
    """
    return node.input[1].removeprefix("network.").removesuffix(".weight")
