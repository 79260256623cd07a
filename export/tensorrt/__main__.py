"""`python3 -m export.tensorrt`: one plan from one ONNX file, with nothing but TensorRT installed.

`make tensorrt-ngc` runs it in Docker.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from seresnext101_triton.client.errors import ToolkitError
from seresnext101_triton.client.output import flags_of, report
from seresnext101_triton.client.parser import Parser
from seresnext101_triton.export.precision import FP16, FP32, PRECISIONS
from seresnext101_triton.export.tensorrt import local
from seresnext101_triton.export.tensorrt.options import add_tuning, tuning_of
from seresnext101_triton.export.tensorrt.plan import BuildSpec, Profile, sidecar


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = Parser(
        prog="python3 -m export.tensorrt",
        description="Build a TensorRT plan from an ONNX file, on the GPU of this machine, and "
        "write into a JSON file beside it what it was built with. "
        "`python -m export --formats tensorrt` does this, and proves and publishes the plan too.",
    )
    parser.add_argument("onnx", type=Path, help="the ONNX file; its own types are the plan's")
    parser.add_argument("plan", type=Path, help="the plan to write")
    parser.add_argument(
        "--precision",
        choices=(FP16.name, FP32.name),
        default=FP16.name,
        help="what its layers are held to (default: fp16)",
    )
    parser.add_argument(
        "--input", default="INPUT__0", metavar="NAME", help="the input (default: INPUT__0)"
    )
    parser.add_argument(
        "--dims",
        type=_dims,
        default=(3, 224, 224),
        metavar="CxHxW",
        help="its shape (default: 3x224x224)",
    )
    parser.add_argument(
        "--max-batch", type=int, default=8, metavar="N", help="the largest batch (default: 8)"
    )
    add_tuning(parser)
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("/tmp/tensorrt"),  # noqa: S108
        metavar="DIR",
        help="where timing caches are kept",
    )
    options = parser.parse_args(arguments)
    try:
        tuning = tuning_of(options)
        profile = Profile(
            options.input, options.dims, tuning.opt_batch or options.max_batch, options.max_batch
        )
        precision = PRECISIONS[options.precision]
        spec = BuildSpec(options.onnx, options.plan, profile, tuning, precision, options.cache)
        facts = local.build(spec, _LineProgress(), _say)
    except ToolkitError as error:
        return report(error, flags_of(parser))
    _say(
        f"{options.plan}: TensorRT {facts.tensorrt}, {facts.gpu}, layers {facts.layers}; described "
        f"in {sidecar(options.plan).name}"
    )
    return 0


class _LineProgress:
    """Progress as lines, for a log."""

    def start(self, phase: str, steps: int) -> None:
        _say(f"{phase}: {steps} steps")

    def step(self, phase: str, done: int) -> None:
        pass

    def finish(self, phase: str) -> None:
        _say(f"{phase}: done")


def _dims(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape like 3x224x224") from None


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
