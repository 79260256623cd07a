"""One table of the formats a network can be exported to.

A format is one entry here and a module with a function `export(material, folder)`; nothing else names it but its GPU knobs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from export.formats.material import Material

INPUT = "INPUT__0"  # LibTorch demands this pattern, so that every format has these names and one client serves all
OUTPUT = "OUTPUT__0"


@dataclass(frozen=True)
class Format:
    """How one kind of artifact is made, run and served.

    Attributes:
        name: What `--formats` calls it.
        module: Of `export.formats`, which makes it.
        platform: Triton's `platform` in config.pbtxt, which chooses the backend; `openvino` is a `backend`.
        filename: Triton's default file name for that platform.
        runtime: A key of `server.runtimes.RUNTIMES`: what runs it in the parity gate and in our backends.
        thread_parameter: The backend's name for the number of CPU threads of one run; 0 leaves it open. Empty where it has none.
        packages: The distributions whose versions decide what the artifact looks like.
        precision: What it computes in unless told otherwise.
        precisions: What it can compute in.
        gpu_only: Whether only a GPU can serve it.
        cpu_only: Whether only a CPU can.
        batched: Whether Triton batches its requests. NVIDIA's OpenVINO backend would take exactly the largest batch then, so there each
            request is a run of its own, with as many images as it brings.
    """

    name: str
    module: str
    platform: str
    filename: str
    runtime: str
    thread_parameter: str
    packages: tuple[str, ...]
    precision: str = "fp32"
    precisions: tuple[str, ...] = ("fp32", "fp16")
    gpu_only: bool = False
    cpu_only: bool = False
    batched: bool = True

    @property
    def export(self) -> Callable[[Material, Path], None]:
        """Write the artifact into a folder: `export(material, folder)`."""
        return import_module(f"export.formats.{self.module}").export


_ONNX_PACKAGES = ("torch", "onnxscript", "onnx")
_ONNX = Format(
    "onnx",
    "onnx",
    "onnxruntime_onnx",
    "model.onnx",
    "onnxruntime",
    "intra_op_thread_count",
    _ONNX_PACKAGES,
    precisions=("fp32", "fp16", "int8"),
)
FORMATS = {
    format.name: format
    for format in (
        Format("torchscript", "torchscript", "pytorch_libtorch", "model.pt", "torchscript", "INTRA_OP_THREAD_COUNT", ("torch",)),
        _ONNX,
        replace(_ONNX, name="onnx_trt", precision="fp16", precisions=("fp32", "fp16"), gpu_only=True),
        Format(
            "openvino",
            "openvino",
            "openvino",
            "model.xml",
            "openvino",
            "INFERENCE_NUM_THREADS",
            (*_ONNX_PACKAGES, "openvino"),
            precisions=("fp32", "bf16", "int8"),
            cpu_only=True,
            batched=False,
        ),
        Format("tensorrt", "tensorrt", "tensorrt_plan", "model.plan", "tensorrt", "", _ONNX_PACKAGES, precision="fp16", gpu_only=True),
    )
}
DEFAULT_FORMATS = ("torchscript", "onnx")
