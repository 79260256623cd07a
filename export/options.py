"""The options of `python -m export`, and its help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from seresnext101_triton import add_version, as_typed
from seresnext101_triton.client.options import add_timings, named
from seresnext101_triton.client.output import flags_of
from seresnext101_triton.client.parser import Parser
from seresnext101_triton.export import commands
from seresnext101_triton.export.formats import DEFAULT_FORMATS, FORMATS
from seresnext101_triton.export.precision import FP32, PRECISIONS, Precision
from seresnext101_triton.export.quantization import AUTO, METHODS
from seresnext101_triton.export.serving import DEVICES
from seresnext101_triton.server import TRITON_RELEASE

_EPILOG = """\
weights:
  ngc              NVIDIA's pretrained file, downloaded once and cached where torch.hub caches; an
                   interrupted download goes on where it ended
  hub              the same through torch.hub, which runs the code of NVIDIA's repository, in a
                   process of its own; hub:DIR uses a clone of it
  PATH             a checkpoint of this network, fine-tuned or not: .pth, .pth.tar, .pt,
                   .safetensors, or the zip that NGC gives
  https://...      the same, downloaded
  seeded           untrained weights for trying things out; seeded:7 chooses another seed

examples:
  python -m export --weights ngc
  python -m export --weights finetuned.pth --labels classes.txt --name pets
  python -m export --weights ngc --formats onnx --max-batch 64 --device gpu
  python -m export --weights ngc --formats openvino --precision bf16
  python -m export --weights ngc --formats openvino --precision int8 --calibration photographs/
  python -m export --weights ngc --repository s3://bucket/models
  python -m export --weights ngc --formats tensorrt
                                    an FP16 plan, on the GPU that will serve it
  python -m export --weights ngc --formats tensorrt --plan /mnt/l4/model.plan
                                    the same, and one that was built and proven on an L4

Every artifact is run by the runtime that will serve it, and its answers are compared with the
network's, before it is published. An artifact that is there already is not made again. Nothing is
published unless everything can be.

exit codes:
  0   everything that was asked for is in the repository
  1   the weights cannot be used, or this machine or the targeted release cannot do what was asked
      for
  2   wrong usage, or options that do not go together
  3   with --partial: everything was exported but what this machine cannot make
  65  an artifact does not answer as the network does, or does not compute in its precision; it was
      not published
  69  the weights cannot be fetched: there is no network, or nothing at the address
  73  the repository cannot be written
  130 interrupted (SIGINT, SIGTERM, SIGHUP); the message says whether the repository is as it was,
      or everything was published already
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the options of an export. `flags` has the flag of each parameter, for messages.

    Raises:
        SystemExit: An option does not exist. The code is 2.
    """
    parser = _parser()
    if arguments and not arguments[0].startswith("-"):
        names = ", ".join(commands.COMMANDS)
        parser.error(
            f"there is no command {arguments[0]!r}: choose from {names}, or name --weights"
        )
    return parser.parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=as_typed("python -m export"),
        description="Turn weights into verified artifacts in a Triton model repository.",
        epilog=as_typed(f"{_command_list()}\n{_EPILOG}"),
    )
    add_version(parser)
    _add_what(parser)
    _add_network(parser.add_argument_group("network"))
    int8 = parser.add_argument_group("INT8")
    _add_quantization(int8)
    parser.set_defaults(of_int8=int8._group_actions)
    _add_preprocessing(
        parser.add_argument_group("preprocessing, written into config.pbtxt for clients to follow")
    )
    _add_serving(parser.add_argument_group("serving"))
    _add_image_input(parser.add_argument_group("models that take image files"))
    _add_formats(parser)
    parser.add_argument(
        "--json", action="store_true", help="print the manifests to standard output"
    )
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    add_timings(parser)
    parser.set_defaults(flags=flags_of(parser))
    return parser


def _command_list() -> str:
    """The commands besides the export itself."""
    lines = [f"  {name:<17}{commands.load(name).HELP}" for name in commands.COMMANDS]
    return "\n".join(["commands:", *lines, "", "  python -m export COMMAND --help", ""])


def _add_formats(parser: argparse.ArgumentParser) -> None:
    """Add the options of the formats, and note which format each is of."""
    of_formats = {}
    for format in FORMATS.values():
        before = len(parser._actions)
        format.add_arguments(parser)
        of_formats[format.name] = parser._actions[before:]
    parser.set_defaults(of_formats=of_formats)


def _add_what(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--weights", required=True, metavar="SOURCE", help="where the weights come from; see below")
    add(
        "--ema",
        action="store_true",
        help="take a checkpoint's averaged weights (default: the others, where it has both)",
    )
    summaries = "; ".join(f"{format.name}: {format.summary}" for format in FORMATS.values())
    default = ",".join(DEFAULT_FORMATS)
    add(
        "--formats",
        default=default,
        metavar="A,B",
        help=as_typed(
            f"{summaries} (default: {default}). Which one is the best on this machine is measured "
            "by `python -m perf advise`"
        ),
    )
    add("--precision", choices=tuple(PRECISIONS), help=_precision_help())
    add(
        "--repository",
        type=named,
        default="model_repository",
        metavar="DIR|URL",
        help="a folder, or s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH "
        "(default: model_repository)",
    )
    add(
        "--name",
        default="seresnext101",
        help="models are called NAME_FORMAT; ASCII letters, digits, - and _ "
        "(default: seresnext101)",
    )
    add("--force", action="store_true", help="export even what is there already, as a new version")
    add(
        "--allow-error",
        type=float,
        metavar="X",
        help="publish artifacts whose relative error is up to X, where the gate would refuse them; "
        "the manifest and config.pbtxt say so",
    )
    add(
        "--partial",
        action="store_true",
        help="leave out what this machine cannot make, and exit with 3",
    )


def _precision_help() -> str:
    """What artifacts compute in, which formats have it, and what each format has by default."""
    lines = [
        f"{precision.name} ({_formats_with(precision)}{precision.summary})"
        for precision in PRECISIONS.values()
    ]
    others = [format for format in FORMATS.values() if format.default_precision != FP32]
    defaults = [f"{format.default_precision.name} for {format.name}" for format in others]
    return (
        f"what artifacts compute in: {', '.join(lines)} "
        f"(default: {', '.join([*defaults, f'else {FP32.name}'])})"
    )


def _formats_with(precision: Precision) -> str:
    names = [format.name for format in FORMATS.values() if precision in format.precisions]
    return "all formats" if len(names) == len(FORMATS) else ", ".join(names)


def _add_network(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--architecture",
        default="se-resnext101-32x4d",
        metavar="NAME",
        help="or se-resnext-tiny, for trying things out",
    )
    add(
        "--classes",
        type=int,
        metavar="N",
        help="classes of seeded weights; other weights tell their own",
    )
    add(
        "--output",
        choices=("probabilities", "logits"),
        default="probabilities",
        help="what is served (default: probabilities)",
    )
    add(
        "--labels",
        metavar="FILE",
        help="names of the classes, UTF-8, one a line; `none` (default: ImageNet's for 1000)",
    )
    add(
        "--fp32-squeeze",
        action="store_true",
        help="in FP16, keep each squeeze (pooling to sigmoid) in FP32",
    )


def _add_quantization(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="100 to 500 images like those that will be served (of more, every second, third, ... "
        "is taken, so that at most 500 are); every fifth judges",
    )
    add(
        "--calibration-method",
        choices=(AUTO, *METHODS),
        default=AUTO,
        help="how ranges follow from them (default: auto, the one that answers nearest to FP32)",
    )
    add(
        "--keep-fp32",
        default="",
        metavar="auto|A,B",
        help="leave out those layers, or the worst ones until the judgement is good",
    )
    add(
        "--truth",
        type=Path,
        metavar="DIR|CSV",
        help="classes of the images: accuracy is judged too",
    )
    add(
        "--min-agreement",
        type=float,
        default=0.95,
        metavar="SHARE",
        help="least share of images with FP32's first class (default: 0.95)",
    )


def _add_preprocessing(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--input",
        choices=("fp32", "uint8"),
        default="fp32",
        help="what clients send: normalised values, or pixels, a quarter of the bytes, which the "
        "model normalises; its name then ends in _uint8 (default: fp32)",
    )
    add(
        "--crop",
        type=int,
        default=224,
        metavar="PX",
        help="side of the square the network sees (default: 224)",
    )
    add(
        "--resize",
        type=int,
        metavar="PX",
        help="length of the shorter side before (default: crop + 32)",
    )
    add(
        "--interpolation",
        choices=("bilinear", "bicubic"),
        default="bilinear",
        help="default: bilinear",
    )
    add("--mean", type=_three_numbers, metavar="R,G,B", help="default: 0.485,0.456,0.406")
    add("--std", type=_three_numbers, metavar="R,G,B", help="default: 0.229,0.224,0.225")


def _add_serving(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--max-batch",
        type=int,
        default=8,
        metavar="N",
        help="the one maximum batch of it all (default: 8)",
    )
    add(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="where Triton runs the models (default: cpu)",
    )
    unbatched = ", ".join(format.name for format in FORMATS.values() if not format.batched)
    add(
        "--instances",
        type=int,
        default=0,
        metavar="N",
        help=f"copies that run at the same time (default: 1; of {unbatched} and on a GPU 2)",
    )
    add(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="CPU threads of one run (default: 0, the physical cores that it may use)",
    )
    add(
        "--queue-size",
        type=int,
        default=0,
        metavar="N",
        help="requests that may wait (default: 0, any number; a bound costs latency, see "
        "docs/serving.md)",
    )
    add(
        "--queue-timeout",
        dest="queue_timeout_ms",
        type=int,
        default=0,
        metavar="MS",
        help="how long one may wait before it is rejected (default: 0, any time)",
    )
    add(
        "--queue-delay",
        dest="queue_delay_us",
        type=int,
        default=0,
        metavar="US",
        help="how long to wait for a fuller batch (default: 0)",
    )
    add(
        "--batcher",
        action="store_true",
        help=f"let Triton make batches of {unbatched} models too, with one instance: more images a "
        "second under load. NVIDIA's own image then computes --max-batch images for "
        "every request",
    )
    add(
        "--response-cache",
        action="store_true",
        help="let a server with a response cache answer equal requests from it (the server's own "
        "option --response-cache gives it one)",
    )
    add(
        "--target",
        default=TRITON_RELEASE,
        metavar="YY.MM",
        help=f"the tritonserver release (default: {TRITON_RELEASE})",
    )


def _add_image_input(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--image-input",
        nargs="?",
        const="bytes",
        choices=("bytes", "uint8"),
        help="beside each model NAME, publish NAME_image, which takes JPEG and other image files: "
        "as BYTES, one in each row (default if the option is given), or the bytes of one as UINT8",
    )
    add(
        "--image-instances",
        type=int,
        metavar="N",
        help="processes that decode images (default: 2)",
    )


def _three_numbers(text: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers, R,G,B") from None
    return red, green, blue
