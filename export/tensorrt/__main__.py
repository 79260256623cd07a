"""`python3 -m export.tensorrt`: one plan from one ONNX file, with nothing but TensorRT installed. `make tensorrt-ngc` runs it in Docker."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from export.errors import ExportError
from export.tensorrt import local
from export.tensorrt.options import add_tuning, tuning_of
from export.tensorrt.plan import Order, Profile, sidecar


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python3 -m export.tensorrt",
        description="Build a TensorRT plan from an ONNX file, on the GPU of this machine, and write down in a JSON file beside it "
        "what it was built with. `python -m export --formats tensorrt` does this and proves and publishes the plan too.",
    )
    parser.add_argument("onnx", type=Path, help="the ONNX file; its own types are the plan's")
    parser.add_argument("plan", type=Path, help="the plan to write")
    parser.add_argument("--precision", choices=("fp16", "fp32"), default="fp16", help="what its layers are held to (default: fp16)")
    parser.add_argument("--input", default="INPUT__0", metavar="NAME", help="the input (default: INPUT__0)")
    parser.add_argument("--dims", type=_dims, default=(3, 224, 224), metavar="CxHxW", help="its shape (default: 3x224x224)")
    parser.add_argument("--max-batch", type=int, default=8, metavar="N", help="the largest batch (default: 8)")
    add_tuning(parser)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/tensorrt"), metavar="DIR", help="timing caches")  # noqa: S108
    options = parser.parse_args(arguments)
    try:
        tuning = tuning_of(options)
        profile = Profile(options.input, options.dims, tuning.opt_batch or options.max_batch, options.max_batch)
        order = Order(options.onnx, options.plan, profile, tuning, options.precision, options.cache)
        facts = local.build(order, _Lines(), _say)
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    _say(f"{options.plan}: TensorRT {facts.tensorrt}, {facts.gpu}, layers {facts.layers}; described in {sidecar(options.plan).name}")
    return 0


class _Lines:
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
