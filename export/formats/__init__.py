"""One table of the formats a network can be exported to.

A format is a module with a function `export(network, example, max_batch, path)`, and one entry here; nothing else names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from export.formats.served import ServedNetwork

INPUT = "INPUT__0"  # LibTorch demands this pattern, so that every format has these names and one client serves all
OUTPUT = "OUTPUT__0"


@dataclass(frozen=True)
class Format:
    """How one kind of artifact is made, run and served.

    Attributes:
        name: What `--formats` calls it.
        platform: Triton's `platform` in config.pbtxt, which chooses the backend.
        filename: Triton's default file name for that platform.
        runtime: A key of `server.runtimes.RUNTIMES`: what runs it in the parity gate and in our backends.
        thread_parameter: The backend's name for the number of CPU threads of one run; 0 leaves it to the runtime.
        packages: The distributions whose versions decide what the artifact looks like.
    """

    name: str
    platform: str
    filename: str
    runtime: str
    thread_parameter: str
    packages: tuple[str, ...]

    @property
    def export(self) -> Callable[[ServedNetwork, Tensor, int, Path], None]:
        """Write the artifact: `export(network, example, max_batch, path)`, with an example batch of two."""
        return import_module(f"export.formats.{self.name}").export


FORMATS = {
    format.name: format
    for format in (
        Format("torchscript", "pytorch_libtorch", "model.pt", "torchscript", "INTRA_OP_THREAD_COUNT", ("torch",)),
        Format("onnx", "onnxruntime_onnx", "model.onnx", "onnxruntime", "intra_op_thread_count", ("torch", "onnxscript", "onnx")),
    )
}
