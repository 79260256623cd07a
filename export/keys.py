"""The key of an artifact: two exports with equal keys make equal artifacts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from seresnext101_triton.export import manifest
from seresnext101_triton.export.fingerprint import source_digest
from seresnext101_triton.export.format import Format
from seresnext101_triton.export.job import Weights
from seresnext101_triton.export.precision import Precision
from seresnext101_triton.export.quantization import recipe
from seresnext101_triton.export.request import Request, Variant


def key_of(request: Request, weights: Weights, variant: Variant) -> str:
    """A text that identifies an artifact: two exports with equal keys make equal artifacts."""
    format, precision = variant.format, variant.precision
    facts: dict[str, Any] = {
        "code": source_digest(*sources_of(format, precision)),
        "weights": weights.identity,
        "format": format.name,
        "options": format.identity(),
        "precision": precision.identity(),
        "architecture": asdict(request.architecture),
        "output": request.output.value,
        "preprocessing": asdict(request.preprocessing),
        "max_batch": request.serving.max_batch,
        "target": request.target,
        "tools": manifest.tool_versions(*format.packages),
        # A strict export must not accept what was published with a larger allowed error.
        "allow_error": request.allow_error,
    }
    if weights.images and request.quantization:
        facts["quantization"] = recipe.identity(request.quantization, weights.images)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def sources_of(format: Format, precision: Precision) -> set[str]:
    """The modules of this project whose code determines the content of an artifact."""
    ancestors = [each for each in type(format).__mro__ if issubclass(each, Format)]
    return {
        *(each.__module__ for each in ancestors if each is not Format),
        *format.sources,
        *("seresnext101_triton.export.network", "seresnext101_triton.export.served"),
        *(["seresnext101_triton.export.onnx"] if format.from_onnx else []),
        *(["seresnext101_triton.export.quantization"] if precision.quantized else []),
    }
