"""OpenVINO's intermediate representation, for Triton's OpenVINO backend on CPUs: made from the same ONNX as everything else."""

from __future__ import annotations

from pathlib import Path

import openvino

from export.formats.material import Material

FILENAME = "model.xml"


def export(material: Material, folder: Path) -> None:
    """Write `model.xml` and the weights, `model.bin`, as they are: OpenVINO would halve them by itself."""
    model = openvino.Core().read_model(str(material.onnx))  # as `convert_model` does, which reports its use to OpenVINO's makers
    openvino.save_model(model, str(folder / FILENAME), compress_to_fp16=False)
