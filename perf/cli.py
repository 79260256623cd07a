"""The command line: `python -m perf overhead|precision|preprocessing`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

_EPILOG = """\
examples:
  python -m perf overhead
  python -m perf overhead --rounds 100 --json
  python -m perf preprocessing                 pictures to tensors, against torchvision and NVIDIA's helper
  python -m perf precision --device cuda       on a GPU; written to perf/results/

exit codes:
  0  measured
  1  the repository cannot be served, or there is no such device
  2  wrong usage
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m perf",
        description="Measure what serving costs, and what a precision is worth.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    overhead = commands.add_parser(
        "overhead",
        help="what a server adds to a single request",
        description="Run the same artifact in its runtime and over gRPC, by turns, at batch 1, and compare the medians.",
    )
    overhead.add_argument("--repository", type=Path, default=Path("model_repository"), metavar="DIR", help="default: model_repository")
    overhead.add_argument("--rounds", type=int, default=40, metavar="N", help="turns of each side (default: 40)")
    overhead.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    overhead.set_defaults(run=_overhead)
    precision = commands.add_parser(
        "precision",
        help="FP16 against FP32 and TF32, without a server",
        description="Run the network, eager and as TorchScript, by turns, in every precision the device has.",
    )
    precision.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="default: cuda")
    precision.add_argument("--batches", type=_numbers, default=(1, 8, 32, 128), metavar="N,N", help="default: 1,8,32,128")
    precision.add_argument("--turns", type=int, default=10, metavar="N", help="of each way at each batch size (default: 10)")
    precision.add_argument("--architecture", default="se-resnext101-32x4d", metavar="NAME", help="or se-resnext-tiny")
    precision.add_argument("--crop", type=int, default=224, metavar="PX", help="side of the images (default: 224)")
    precision.add_argument("--results", type=Path, default=Path("perf/results"), metavar="DIR", help="default: perf/results")
    precision.set_defaults(run=_precision)
    preprocessing = commands.add_parser(
        "preprocessing",
        help="pictures to tensors: this client, torchvision, NVIDIA's helper",
        description="Decode and prepare the same JPEGs by turns on one core, and compare medians.",
    )
    preprocessing.add_argument("--turns", type=int, default=15, metavar="N", help="of each way at each size (default: 15)")
    preprocessing.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    preprocessing.set_defaults(run=_preprocessing)
    options = parser.parse_args(arguments)
    return int(options.run(options))


def _precision(options: argparse.Namespace) -> int:
    import torch
    from rich.console import Console
    from rich.table import Table

    from export.network import ARCHITECTURES
    from perf.precision import measure, write

    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: this machine has no NVIDIA GPU, or its PyTorch has no CUDA: --device cpu measures here", file=sys.stderr)
        return 1
    if options.architecture not in ARCHITECTURES:
        print(f"error: unknown architecture {options.architecture}: choose from {', '.join(ARCHITECTURES)}", file=sys.stderr)
        return 2
    results = measure(ARCHITECTURES[options.architecture], options.crop, options.batches, options.device, options.turns)
    path = write(results, options.device, options.results)
    names = list(dict.fromkeys(result.name for result in results))
    table = Table("batch", *names, box=None, pad_edge=False, title="images per second, median", title_justify="left")
    for batch in options.batches:
        table.add_row(str(batch), *(f"{result.median:.1f}" for result in results if result.batch == batch))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"written to {path}")
    return 0


def _preprocessing(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from perf.preprocessing import SIZES, measure

    results = measure(options.turns)
    if options.json:
        print(json.dumps([asdict(result) | {"median_ms": result.median} for result in results], indent=2))
        return 0
    table = Table(box=None, pad_edge=False, title="ms a picture, median, and how many times torchvision's speed", title_justify="left")
    table.add_column("")
    for width, height in SIZES:
        table.add_column(f"{width}x{height}", justify="right")
    table.add_column("torchvision's bits", justify="right")
    for name in dict.fromkeys(result.name for result in results):
        row = [result for result in results if result.name == name]
        base = [result.median for result in results if result.name == "torchvision"]
        cells = [f"{result.median:6.1f}  {slow / result.median:.2f}x" for result, slow in zip(row, base, strict=True)]
        table.add_row(name, *cells, "yes" if all(result.equal for result in row) else "no")
    Console(highlight=False).print(table)
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 1,8,32") from None


def _overhead(options: argparse.Namespace) -> int:
    from client.errors import ClientError
    from perf.overhead import measure
    from server.errors import ServerError

    try:
        results = measure(options.repository, options.rounds)
    except (ClientError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.json:
        document = [
            {"model": result.model, "added_ms": result.added[0], "added_ms_interval": result.added[1:], "equal": result.equal}
            | {"alone_ms": list(result.alone), "served_ms": list(result.served)}
            for result in results
        ]
        print(json.dumps(document, indent=2))
        return 0

    import numpy as np
    from rich.console import Console
    from rich.table import Table

    def spread(times: np.ndarray) -> str:
        low, middle, high = np.percentile(times, (10, 50, 90))
        return f"{middle:.1f} ({low:.0f}–{high:.0f})"

    console = Console(highlight=False)
    console.print(f"one request at batch 1, in ms, over {options.rounds} rounds: median (10 % – 90 %),")
    console.print("and the median of what serving adds (95 % interval)")
    table = Table(box=None, pad_edge=False)
    for column in ("", "alone", "served", "added"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for result in results:
        middle, low, high = result.added
        table.add_row(result.model, spread(result.alone), spread(result.served), f"{middle:+.1f} ({low:+.1f} – {high:+.1f})")
    console.print(table)
    return 0
