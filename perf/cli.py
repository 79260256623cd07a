"""The command line `python -m perf`. Every command is one module of the package `commands`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from seresnext101_triton import add_version, as_typed
from seresnext101_triton.client.errors import ToolkitError
from seresnext101_triton.client.output import flags_of, report
from seresnext101_triton.client.parser import Parser
from seresnext101_triton.client.process import INTERRUPTED, interrupt_on_signals
from seresnext101_triton.perf import commands

_EPILOG = """\
examples:
  python -m perf install                                fetch NVIDIA's perf_analyzer, once
  python -m perf sweep --model seresnext101_onnx --concurrency 1,2,4,8
  python -m perf compare seresnext101_torchscript seresnext101_onnx raw:seresnext101_onnx
  python -m perf compare seresnext101_onnx seresnext101_onnx@candidate:8001 --fail-under 0.97
  python -m perf compare seresnext101_onnx@1 seresnext101_onnx@2
  python -m perf compare last-week.jsonl perf/results/results.jsonl
  python -m perf compare client:seresnext101_onnx peer:fastapi peer:litserve peer:pytriton
  python -m perf compare client:seresnext101_openvino_int8 peer:litserve/seresnext101_openvino_int8
  python -m perf tune seresnext101_onnx --p99-ms 1000   and --undo
  python -m perf advise --p99-ms 500 --dry-run           which model is the best here
  python -m perf plan seresnext101_onnx --rate 200 --p99-ms 300   how many replicas that needs
  python -m perf report                                 one HTML page, Markdown tables, plots
  python -m perf overhead --rounds 100 --json
  python -m perf precision --device cuda

exit codes:
  0   measured
  1   what was asked for cannot be measured, or a comparison is below --fail-under; partial
      results are kept
  2   wrong usage
  65  an artifact cannot be loaded or run
  69  there is no perf_analyzer, or no server answers
  73  the results cannot be written
  130 interrupted; measured loads of a sweep are kept, and the same command goes on
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parser().parse_args(arguments)
    interrupt_on_signals()
    from seresnext101_triton.client.memory import keep_freed_memory

    keep_freed_memory()  # the client is measured as its own command line runs it
    try:
        return int(options.run(options))
    except ToolkitError as error:
        return report(error, options.flags)
    except KeyboardInterrupt:
        print(f"interrupted; {options.interrupted}", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=as_typed("python -m perf"),
        description="Measure a Triton server with NVIDIA's perf_analyzer, and measure without a "
        "server how fast precisions and the preprocessing of images are.",
        epilog=as_typed(_EPILOG),
    )
    add_version(parser)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in commands.COMMANDS:
        command = commands.load(name)
        subparser = subparsers.add_parser(
            name,
            help=command.HELP,
            description=command.__doc__,
        )
        subparser.set_defaults(
            run=command.run, interrupted="nothing of this was kept: run it again"
        )
        command.add_arguments(subparser)
        subparser.set_defaults(flags=flags_of(subparser))
    return parser
