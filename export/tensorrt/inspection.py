"""Proof that a plan runs in its precision, from TensorRT's own description of its layers.

Asking for FP16 is no proof: with TensorRT 11 a weakly typed builder silently gives FP32 engines.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from seresnext101_triton.export.errors import BuildError
from seresnext101_triton.export.precision import Precision

# Of the layers that have tensors of a type: the least that must have one in half precision. An FP32
# squeeze is three or four layers of eight in each block; what else is in FP32 are the ends of the
# graph.
_SMALLEST_HALF_SHARE = 0.25
_TYPES = {"half": ("half", "fp16"), "int8": ("int8",), "float": ("float", "fp32")}


def count_layers(description: str) -> dict[str, int]:
    """How many layers have a tensor of which type.

    A layer that converts counts for its narrower type. TensorRT 10 writes format and type of a
    tensor into one text, 11 into two.

    Args:
        description: JSON of `IEngineInspector.get_engine_information`, or of `trtexec
            --exportLayerInfo`.

    Raises:
        BuildError: It has no details: the plan was built without detailed profiling verbosity.
    """
    layers = json.loads(description).get("Layers", [])
    if not layers or not all(isinstance(layer, dict) for layer in layers):
        raise BuildError(
            "the plan does not tell its layers' types: build it with detailed profiling verbosity"
        )
    counts = Counter(_type_of(layer) for layer in layers)
    return {name: counts[name] for name in (*_TYPES, "other")}


def check_precision(layers: dict[str, int], precision: Precision) -> None:
    """Refuse a plan that was to run in half precision and does not.

    Raises:
        BuildError: Too few of its layers have tensors in half precision.
    """
    typed = sum(layers[name] for name in _TYPES)
    if precision.is_cast and layers["half"] < max(1, _SMALLEST_HALF_SHARE * typed):
        raise BuildError(
            f"{layers['half']} of the plan's {typed} layers run in half precision, "
            f"{layers['float']} in FP32: this is no FP16 plan. "
            "It was not published"
        )


def _type_of(layer: dict[str, Any]) -> str:
    texts = [
        str(
            tensor.get("Datatype") or tensor.get("DataType") or tensor.get("Format/Datatype", "")
        ).lower()
        for tensor in [*layer.get("Inputs", []), *layer.get("Outputs", [])]
        if isinstance(tensor, dict)
    ]
    for name in ("int8", "half", "float"):
        if any(word in text for text in texts for word in _TYPES[name]):
            return name
    return "other"
