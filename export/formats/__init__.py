"""The table of the formats that a network can be exported to."""

from __future__ import annotations

from seresnext101_triton.export.format import Format
from seresnext101_triton.export.formats.onnx import Onnx
from seresnext101_triton.export.formats.onnx_trt import OnnxTensorRT
from seresnext101_triton.export.formats.openvino import OpenVino
from seresnext101_triton.export.formats.pt2 import Pt2
from seresnext101_triton.export.formats.tensorrt_rtx import TensorRTRtx
from seresnext101_triton.export.formats.torchscript import TorchScript
from seresnext101_triton.export.tensorrt.format import TensorRT

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        TorchScript(),
        Pt2(),
        Onnx(),
        OnnxTensorRT(),
        OpenVino(),
        TensorRT(),
        TensorRTRtx(),
    )
}
DEFAULT_FORMATS = ("torchscript", "onnx")
