"""The command line: `python -m perf sweep|compare|raw|tune|report`, and three questions of our own."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from client.options import positive

_EPILOG = """\
examples:
  python -m perf install                                           NVIDIA's perf_analyzer, once
  python -m perf sweep --model seresnext101_onnx --concurrency 1,2,4,8
  python -m perf compare seresnext101_torchscript seresnext101_onnx raw:seresnext101_onnx
  python -m perf compare seresnext101_onnx seresnext101_onnx@candidate:8001 --fail-under 0.97
  python -m perf compare last-week.jsonl perf/results/results.jsonl
  python -m perf compare client:seresnext101_onnx peer:fastapi peer:litserve peer:pytriton
  python -m perf tune seresnext101_onnx --p99-ms 1000              and --undo
  python -m perf report                                            one HTML page, Markdown, plots
  python -m perf overhead --rounds 100 --json
  python -m perf precision --device cuda

exit codes:
  0   measured
  1   what was asked for cannot be measured, or a comparison is below --fail-under; partial results are kept
  2   wrong usage
  69  no perf_analyzer, or no server answers
  73  the results cannot be written
  130 interrupted; what a sweep has measured is kept, and the same command goes on
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from client.errors import ClientError
    from export.errors import ExportError
    from perf.errors import PerfError
    from server.errors import ServerError

    try:
        return int(options.run(options))
    except (PerfError, ClientError, ServerError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"interrupted; {options.interrupted}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m perf",
        description="Measure a Triton server with NVIDIA's perf_analyzer, and what a precision or a picture costs without one.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(interrupted="nothing of this was kept: run it again")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_measuring(commands)
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
    return parser


def _add_measuring(commands: Any) -> None:
    install = commands.add_parser("install", help="fetch NVIDIA's perf_analyzer into this environment")
    install.set_defaults(run=_install)

    sweep = commands.add_parser(
        "sweep", help="every load on every model", description="One perf_analyzer for each load; a second run goes on."
    )
    _add_models(sweep)
    sweep.add_argument("--batches", type=_numbers, default=(1,), metavar="N,N", help="images in one request (default: 1)")
    sweep.add_argument("--concurrency", type=_numbers, default=(1, 2, 4, 8), metavar="N,N", help="requests under way (default: 1,2,4,8)")
    sweep.add_argument("--rates", type=_numbers, default=(), metavar="N,N", help="requests a second, instead of concurrencies")
    sweep.add_argument("--protocols", type=_protocols, default=("grpc",), metavar="P,P", help="grpc, http or both (default: grpc)")
    sweep.add_argument("--shared-memory", action="store_true", help="each load also through system shared memory")
    sweep.add_argument("--window", type=float, default=1.0, metavar="S", help="shortest measurement window (default: 1)")
    sweep.add_argument("--again", action="store_true", help="measure also what the results hold already")
    sweep.set_defaults(interrupted="what was measured is kept, and the same command goes on")
    sweep.add_argument("--http-url", default="", metavar="HOST:PORT", help="with --url: where it speaks HTTP")

    compare = commands.add_parser(
        "compare",
        help="two or more ways to answer, by turns",
        description="Ratios to the first contestant, with 99 % intervals. A contestant is a model of the repository, raw:MODEL (its "
        "artifact in its runtime, with no server), client:MODEL (photographs through this project's client), peer:fastapi, peer:litserve, "
        "peer:pytriton (photographs to the eager network served otherwise) or MODEL@HOST:PORT. Two or more files of results (.jsonl) "
        "compare the loads that saved sweeps share.",
    )
    compare.add_argument("contestants", nargs="+", metavar="CONTESTANT")
    compare.add_argument("--batch", type=positive, default=1, metavar="N", help="images in one request (default: 1)")
    compare.add_argument("--concurrency", type=positive, default=4, metavar="N", help="requests under way (default: 4)")
    compare.add_argument("--rounds", type=_several, default=8, metavar="N", help="turns of each, two at least (default: 8)")
    compare.add_argument("--seconds", type=float, default=6.0, metavar="S", help="of one turn (default: 6)")
    compare.add_argument("--peer-architecture", default="se-resnext101-32x4d", metavar="NAME", help="of the peers' network")
    compare.add_argument("--fail-under", type=float, metavar="RATIO", help="exit code 1 where a ratio is certainly below it")

    raw = commands.add_parser("raw", help="artifacts in their runtimes, with no server")
    _add_models(raw)
    raw.add_argument("--batches", type=_numbers, default=(1, 8), metavar="N,N", help="images in one run (default: 1,8)")
    raw.add_argument("--turns", type=positive, default=5, metavar="N", help="of each (default: 5)")
    raw.add_argument("--seconds", type=float, default=3.0, metavar="S", help="of one turn (default: 3)")

    cpu = commands.add_parser(
        "cpu",
        help="every way to serve the network without a GPU, by turns",
        description="Eager PyTorch; TorchScript, ONNX Runtime, OpenVINO in FP32, bfloat16 and INT8, each with no server and served at "
        "every concurrency, one image in a request; all by turns in one run. Writes cpu.md, cpu.svg and cpu.png beside the results.",
    )
    cpu.add_argument(
        "--name", default="seresnext101", help="the models are NAME_torchscript, NAME_openvino_int8 ... (default: seresnext101)"
    )
    cpu.add_argument(
        "--concurrency", type=_numbers, default=(1, 2, 4, 8, 16), metavar="N,N", help="requests under way (default: 1,2,4,8,16)"
    )
    cpu.add_argument("--rounds", type=_several, default=4, metavar="N", help="turns of each, two at least (default: 4)")
    cpu.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of one turn (default: 5)")
    cpu.add_argument("--architecture", default="se-resnext101-32x4d", metavar="NAME", help="of the eager network")

    crops = commands.add_parser("crops", help="images to calibrate with where one has none: crops of the photographs")
    crops.add_argument("folder", type=Path, metavar="DIR", help="where they go")
    crops.add_argument("--count", type=positive, default=100, metavar="N", help="default: 100")
    crops.set_defaults(run=partial(_measuring, "crops"))

    tune = commands.add_parser(
        "tune",
        help="the best configuration under a bound on latency, written into config.pbtxt",
        description="Tries instances and threads, then the largest batch, then the queue delay, each from the best so far; measures the "
        "choice anew against the old configuration, by turns; and writes it if it is certainly faster.",
    )
    tune.add_argument("model", metavar="MODEL")
    tune.add_argument("--p99-ms", type=float, metavar="MS", help="the 99th percentile that must be kept (default: none)")
    tune.add_argument("--batch", type=positive, default=1, metavar="N", help="images in one request (default: 1)")
    tune.add_argument("--concurrency", type=positive, default=8, metavar="N", help="requests under way (default: 8)")
    tune.add_argument("--rounds", type=_several, default=5, metavar="N", help="turns of each side in the confirmation (default: 5)")
    tune.add_argument("--window", type=float, metavar="S", help="a third of one measurement (default: about 25 requests of one client)")
    tune.add_argument("--dry-run", action="store_true", help="write nothing")
    tune.add_argument("--undo", action="store_true", help="put back the configuration from before tuning")

    report = commands.add_parser("report", help="results as one HTML page, Markdown tables and plots")
    report.add_argument("files", nargs="*", type=Path, metavar="FILE", help="of results (default: --results)")
    report.add_argument("--output", type=Path, default=Path("perf/results"), metavar="DIR", help="default: perf/results")

    for command in (sweep, compare, raw, cpu, tune):
        command.add_argument("--repository", type=Path, default=Path("model_repository"), metavar="DIR", help="default: model_repository")
        command.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    for command in (sweep, compare):
        command.add_argument("--url", default="", metavar="HOST:PORT", help="a server that runs already, instead of one on the repository")
    for command in (sweep, compare, cpu, tune, report):
        command.add_argument(
            "--results", type=Path, default=Path("perf/results/results.jsonl"), metavar="FILE", help="default: perf/results/results.jsonl"
        )
    for name, command in (("sweep", sweep), ("compare", compare), ("raw", raw), ("cpu", cpu), ("tune", tune), ("report", report)):
        command.set_defaults(run=partial(_measuring, name))


def _add_models(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", action="append", metavar="NAME", help="may be repeated (default: all)")


def _measuring(name: str, options: argparse.Namespace) -> int:
    from perf import measuring

    return int(getattr(measuring, f"run_{name}")(options))


def _install(options: argparse.Namespace) -> int:
    from perf import analyzer

    print(f"{analyzer.install()} runs here")
    return 0


def _several(text: str) -> int:
    if (count := positive(text)) > 1:
        return count
    raise argparse.ArgumentTypeError("an interval needs two rounds at least")


def _protocols(text: str) -> tuple[str, ...]:
    if set(found := tuple(text.split(","))) <= {"grpc", "http"}:
        return found
    raise argparse.ArgumentTypeError(f"{text!r} is not grpc, http or grpc,http")


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
        return tuple(positive(part) for part in text.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 1,8,32") from None


def _overhead(options: argparse.Namespace) -> int:
    from perf.overhead import measure

    results = measure(options.repository, options.rounds)
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
