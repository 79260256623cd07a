"""Exported programs as a format, with a precision of their own."""

from __future__ import annotations

from argparse import Namespace, _ActionsContainer
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seresnext101_triton.export.format import Format
from seresnext101_triton.export.material import Material
from seresnext101_triton.export.precision import FP32, Precision
from seresnext101_triton.export.reporting import Reporter

# Unlike BF16, it stores the weights in bfloat16.
BF16_WEIGHTS = Precision("bf16w", "_bf16w", 1e-1, made_in="bfloat16", computes_in="bfloat16")


@dataclass(frozen=True)
class ExportedProgram(Format):
    """The network as `torch.export` writes it."""

    strict: bool = False

    name = "program"
    summary = "PyTorch's exported programs, for CPUs"
    runtime = "tests.export.toy.runtime:ExportedProgram"
    platform = "exported_program"
    platform_field = "backend"
    filename = "model.pt2"
    thread_parameter = "threads"
    packages = ("torch",)
    precisions = (FP32, BF16_WEIGHTS)
    devices = ("cpu",)

    def export(self, material: Material, folder: Path, reporter: Reporter) -> None:
        batch = torch.export.Dim("batch", min=1, max=material.max_batch)
        shapes = ({0: batch},)
        example = (material.example,)
        with torch.no_grad():
            program = torch.export.export(
                material.network, example, dynamic_shapes=shapes, strict=self.strict
            )
        torch.export.save(program, folder / self.filename)

    def add_arguments(self, parser: _ActionsContainer) -> None:
        parser.add_argument("--strict", action="store_true", help="trace through Python's bytecode")

    def with_arguments(self, arguments: Namespace) -> ExportedProgram:
        return ExportedProgram(arguments.strict)

    def identity(self) -> dict[str, Any]:
        return {"strict": self.strict}
