"""The command line: `python -m client classify IMAGE...` and others."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Sequence
from pathlib import Path

from seresnext101_triton import add_version, as_typed
from seresnext101_triton.client import commands, timings
from seresnext101_triton.client.errors import ToolkitError
from seresnext101_triton.client.options import (
    FLAGS,
    add_image_options,
    add_server,
    add_server_side,
    add_throughput,
    add_timings,
    count,
    file,
    model_version,
    port,
    positive,
    seconds,
    waiting,
)
from seresnext101_triton.client.output import ReaderGone, report, say, say_traceback
from seresnext101_triton.client.parser import Parser
from seresnext101_triton.client.process import INTERRUPTED

_BUG = 70  # EX_SOFTWARE of sysexits.h

_EPILOG = """\
examples:
  python -m client classify cat.jpg
  python -m client classify photos/ --model seresnext101_onnx --top 3
  python -m client classify cat.jpg --json | jq '.[0].images[0].predictions[0].label'
  python -m client classify photos/*.jpg --gallery photos.png
  python -m client bulk /data/photos --output answers.jsonl
                                        after an interruption, the same command continues
  python -m client evaluate /data/val --model seresnext101_onnx --model seresnext101_tensorrt_fp16
  python -m client classify cat.jpg --model seresnext101_onnx --server-side yes
                                        the server decodes the file
  python -m client models
  python -m client describe seresnext101_onnx
  python -m client health
  python -m client web --model seresnext101_onnx --model seresnext101_openvino
                                        a page to try the models in a browser
  python -m client top                  what the server does, live; --count 1 --json for programs

names:
  A folder means the images in it and in the folders below, known by their suffixes. Icons (.ico,
  .icns, .xbm, .xpm) are not images in this sense. The command prints how many files it left out.
  A byte XX of a name that is not UTF-8 is written as \\udcXX in JSON (where Python reads it back),
  CSV and Parquet.
  s3://BUCKET/PATH, gs:// and az:// mean the images below that path, or one image if the path has a
  suffix of images.

exit codes:
  0   every model classified every image
  1   an image could not be found, read or decoded, or the server refused it; all other images
      were classified
  2   wrong usage
  69  no server answers
  70  a bug of this client; --debug prints where
  73  a file of results, or standard output, cannot be written
  130 interrupted by Ctrl-C or SIGTERM, after at most two seconds; the file holds every answer
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        with timings.measured(getattr(options, "timings", False), say):
            return int(options.run(options))
    except ToolkitError as error:
        code = report(error, FLAGS)
        if options.debug:
            say_traceback(error)
        return code
    except ReaderGone:
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  (a bug ends in one line too)
        _report_bug(error, options.debug)
        return _BUG


def _report_bug(error: Exception, debug: bool) -> None:
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    advice = "" if debug else "; run it again with --debug, and report what it prints"
    name = type(error).__name__
    say(f"error: this is a bug of the client: {name}: {error} ({where}){advice}")
    if debug:
        say_traceback(error)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=as_typed("python -m client"),
        description="Classify images with the models of a Triton server.",
        epilog=as_typed(_EPILOG),
    )
    add_version(parser)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    classify = subparsers.add_parser("classify", help="print the most likely classes of each image")
    _add_classify(classify)
    bulk = subparsers.add_parser(
        "bulk", help="classify a folder of any size into a file; can be interrupted and continued"
    )
    _add_bulk(bulk)
    evaluate = subparsers.add_parser(
        "evaluate", help="measure the accuracy of served models, and where two of them differ"
    )
    _add_evaluate(evaluate)
    models = subparsers.add_parser("models", help="list the server's models and their states")
    models.set_defaults(run=commands.models)
    describe = subparsers.add_parser("describe", help="print how a model is used")
    describe.add_argument("model", metavar="MODEL", help="name of the model")
    _add_version(describe)
    describe.set_defaults(run=commands.describe)
    health = subparsers.add_parser("health", help="exit with 0 if the server is live and ready")
    health.add_argument(
        "--wait",
        type=waiting,
        default=0.0,
        metavar="S",
        help="how long to wait until the server is ready, in seconds (default: 0)",
    )
    health.set_defaults(run=commands.health)

    top = subparsers.add_parser("top", help="show live what a server does, from its metrics")
    _add_top_command(top)
    web = subparsers.add_parser("web", help="serve a page to try the models in a browser")
    _add_web(web)

    for command in (models, describe, health):
        command.add_argument("--json", action="store_true", help="print one JSON document")
    for command in (classify, bulk, evaluate):
        add_server_side(command)
        add_throughput(command)
        add_image_options(command)
    for command in subparsers.choices.values():
        add_server(command)
        command.add_argument(
            "--debug", action="store_true", help="print a Python traceback for each error"
        )
    return parser


def _add_classify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="a file, folder, pattern or URL; - is standard input",
    )
    _add_models(parser)
    _add_top(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document, no tables")
    form.add_argument(
        "--jsonl", action="store_true", help="print one JSON object for each image and model"
    )
    form.add_argument("--csv", action="store_true", help="print one row for each prediction")
    parser.add_argument(
        "--gallery",
        type=file,
        metavar="PNG",
        help="draw the images with the first model's predictions",
    )
    add_timings(parser)
    parser.set_defaults(run=commands.classify)


def _add_bulk(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="a folder, file, pattern or URL; s3://BUCKET/PATH is all images below",
    )
    parser.add_argument(
        "--output",
        type=file,
        required=True,
        metavar="FILE",
        help="FILE.jsonl for one JSON line for each image, or FILE.parquet for a folder of Parquet "
        "files. Records that it holds are kept. Only one run at a time can write to it",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="may be left out if the server serves one model"
    )
    _add_version(parser)
    _add_top(parser)
    parser.add_argument(
        "--patience",
        type=waiting,
        default=60.0,
        metavar="S",
        help="how long to wait for a server that has ended, in seconds (default: 60)",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="who opens and sends the images: this process, or actors of Ray on all nodes of a "
        "cluster (default: local)",
    )
    parser.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="the Ray cluster, or auto for the one that runs on this machine (default: "
        "$RAY_ADDRESS, or a cluster that begins and ends with this command)",
    )
    parser.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="how many actors of Ray, each with one CPU (default: one for each CPU of the cluster)",
    )
    parser.set_defaults(run=commands.bulk)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="a folder of class folders, or a CSV file of images and class indices",
    )
    _add_models(parser)
    parser.add_argument(
        "--worst",
        type=count,
        metavar="N",
        help="with two models: how many disagreements to print (default: 10)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document, no tables")
    parser.set_defaults(run=commands.evaluate)


def _add_web(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="a model that the page offers; may be given several times. The first two are chosen "
        "at the start (default: all models of the server)",
    )
    parser.add_argument(
        "--address",
        default="127.0.0.1",
        metavar="HOST",
        help="the interface to listen on (default: 127.0.0.1). The page has no password",
    )
    parser.add_argument(
        "--port",
        type=port,
        default=7860,
        metavar="N",
        help="the port of the page; 0 takes a free one (default: 7860)",
    )
    parser.add_argument(
        "--max-upload",
        type=positive,
        default=32,
        metavar="MB",
        help="the largest picture that is accepted, in MiB (default: 32)",
    )
    parser.add_argument(
        "--max-pixels",
        type=positive,
        metavar="N",
        help="refuse larger images (default: 89478485)",
    )
    parser.set_defaults(run=commands.web)


def _add_top_command(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Show what every model does, in each interval: requests and images per second, the mean "
        "batch, the mean time of a request in the queue and in the model, the requests that wait, "
        "those that failed since the model was loaded (in brackets: in this interval), and how "
        "often the launcher loaded the model again. Ctrl-C ends it."
    )
    parser.add_argument(
        "--interval", type=seconds, default=2.0, metavar="S", help="in seconds (default: 2)"
    )
    parser.add_argument(
        "--count", type=positive, metavar="N", help="end after N intervals (default: at Ctrl-C)"
    )
    parser.add_argument(
        "--metrics-port",
        type=port,
        metavar="PORT",
        help="the server's port for metrics (default: what its launcher says on this machine, or "
        "8002)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object in a line for each interval"
    )
    parser.set_defaults(run=commands.top)


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="the served model; may be given several times, and left out if the server serves one "
        "model",
    )
    _add_version(parser)


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--version",
        type=model_version,
        default="",
        metavar="N",
        help="a version of the model (default: the server's choice)",
    )


def _add_top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--top",
        type=positive,
        default=5,
        metavar="K",
        help="how many classes for each image (default: 5)",
    )
