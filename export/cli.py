"""The command line: `python -m export --weights SOURCE`."""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.errors import ExportError
from export.quantization import AUTO, METHODS
from export.tensorrt.options import add_tuning, tuning_of
from server import TRITON_RELEASE

if TYPE_CHECKING:
    from rich.table import Table

    from export.manifest import Manifest
    from export.pipeline import Outcome
    from export.quantization import Quantization
    from export.reporting import Reporter
    from export.request import Request

UNTRAINED = (
    " UNTRAINED WEIGHTS  They were made from a seed, for trying things out.",
    "                    Whatever these models answer, their labels mean nothing. ",
)

_EPILOG = """\
weights:
  ngc              NVIDIA's pretrained file, downloaded once, resumable, cached where torch.hub caches
  hub              the same through torch.hub, which runs NVIDIA's repository; hub:DIR uses a clone of it
  PATH             a checkpoint of this network, fine-tuned or not: .pth, .pth.tar, .pt, .safetensors
  https://...      the same, downloaded
  seeded           untrained weights for trying things out; seeded:7 chooses another seed

examples:
  python -m export --weights ngc
  python -m export --weights finetuned.pth --labels classes.txt --name pets
  python -m export --weights ngc --formats onnx --max-batch 64 --device gpu
  python -m export --weights ngc --formats openvino --precision bf16
  python -m export --weights ngc --formats openvino --precision int8 --calibration photographs/
  python -m export --weights ngc --formats tensorrt              an FP16 plan, on the GPU that will serve it
  python -m export --weights ngc --formats tensorrt --plan /mnt/l4/model.plan
                                                                 the same, and one that was built and proven on an L4

Every artifact is run by the runtime that will serve it and held against the network before it is published; what is there already is
not made again. Nothing is published unless all of it can be.

exit codes:
  0   everything that was asked for is in the repository
  1   the weights cannot be used, or this machine or the targeted release cannot do what was asked for
  2   wrong usage, or options that do not go together
  3   with --partial: all was exported but what this machine cannot make
  65  an artifact does not answer as the network does, or is not in the precision it should be; it was not published
  69  the weights cannot be fetched: no network, or nothing there
  73  the repository cannot be written
  130 interrupted; the repository is as it was
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    from export.reporting import Reporter
    from server.errors import ArtifactError, ServerError

    reporter = Reporter(quiet=options.quiet)
    try:
        from export.pipeline import export

        started = time.monotonic()
        request, left_out = _possible(_request(options)) if options.partial else (_request(options), "")
        outcomes = export(request, reporter)
    except ArtifactError as error:
        print(f"error: {error}", file=sys.stderr)
        return 65
    except (ExportError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the repository is as it was", file=sys.stderr)
        return 130
    _conclude(outcomes, reporter, time.monotonic() - started)
    if options.json:
        print(json.dumps([outcome.to_json() for outcome in outcomes], indent=2))
    if left_out:
        print(left_out, file=sys.stderr)
        return 3
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Turn weights into verified artifacts in a Triton model repository.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", required=True, metavar="SOURCE", help="where the weights come from; see below")
    parser.add_argument(
        "--formats",
        default="torchscript,onnx",
        metavar="A,B",
        help="of torchscript, onnx, openvino (for CPUs), onnx_trt (ONNX through TensorRT in ONNX Runtime) and tensorrt (both for GPUs) "
        "(default: torchscript,onnx)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16", "int8"),
        help="what artifacts compute in; bf16 is openvino's, int8 openvino's and onnx's; it needs --calibration "
        "(default: fp16 for onnx_trt and tensorrt, else fp32)",
    )
    parser.add_argument("--repository", type=Path, default=Path("model_repository"), metavar="DIR", help="default: model_repository")
    parser.add_argument("--name", default="seresnext101", help="models are called NAME_FORMAT (default: seresnext101)")
    parser.add_argument("--force", action="store_true", help="export even what is there already, as a new version")
    parser.add_argument("--partial", action="store_true", help="leave out what this machine cannot make, and exit with 3")

    network = parser.add_argument_group("network")
    network.add_argument("--architecture", default="se-resnext101-32x4d", metavar="NAME", help="or se-resnext-tiny, for trying things out")
    network.add_argument("--classes", type=int, metavar="N", help="classes of seeded weights; other weights tell their own")
    network.add_argument(
        "--output", choices=("probabilities", "logits"), default="probabilities", help="what is served (default: probabilities)"
    )
    network.add_argument("--labels", metavar="FILE", help="names of the classes, one a line; `none` (default: ImageNet's for 1000)")

    network.add_argument("--fp32-squeeze", action="store_true", help="in FP16, keep each squeeze (pooling to sigmoid) in FP32")

    quantization = parser.add_argument_group("INT8")
    quantization.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="100 to 500 images like those that will be served (of more, some 500 are taken); every fifth judges",
    )
    quantization.add_argument(
        "--calibration-method",
        choices=(AUTO, *METHODS),
        default=AUTO,
        help="how ranges follow from them (default: auto, the one that answers nearest to FP32)",
    )
    quantization.add_argument(
        "--keep-fp32", default="", metavar="auto|A,B", help="leave out those layers, or the worst ones until the judgement is good"
    )
    quantization.add_argument("--truth", type=Path, metavar="DIR|CSV", help="classes of the images: accuracy is judged too")
    quantization.add_argument(
        "--min-agreement", type=float, default=0.95, metavar="SHARE", help="least share of images with FP32's first class (default: 0.95)"
    )

    image = parser.add_argument_group("preprocessing, written into config.pbtxt for clients to follow")
    image.add_argument("--crop", type=int, default=224, metavar="PX", help="side of the square the network sees (default: 224)")
    image.add_argument("--resize", type=int, metavar="PX", help="length of the shorter side before (default: crop + 32)")
    image.add_argument("--interpolation", choices=("bilinear", "bicubic"), default="bilinear", help="default: bilinear")
    image.add_argument("--mean", type=_three_numbers, metavar="R,G,B", help="default: 0.485,0.456,0.406")
    image.add_argument("--std", type=_three_numbers, metavar="R,G,B", help="default: 0.229,0.224,0.225")

    serving = parser.add_argument_group("serving")
    serving.add_argument("--max-batch", type=int, default=8, metavar="N", help="the one maximum batch of it all (default: 8)")
    serving.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where Triton runs the models (default: cpu)")
    serving.add_argument(
        "--instances", type=int, default=0, metavar="N", help="copies that run at the same time (default: 1; of openvino and on a GPU 2)"
    )
    serving.add_argument(
        "--threads", type=int, default=0, metavar="N", help="CPU threads of one run (default: 0, the physical cores that it may use)"
    )
    serving.add_argument(
        "--queue-size",
        type=int,
        default=0,
        metavar="N",
        help="requests that may wait (default: 0, any number; a bound costs latency, see README)",
    )
    serving.add_argument(
        "--queue-timeout", type=int, default=0, metavar="MS", help="how long one may wait before it is rejected (default: 0, any time)"
    )
    serving.add_argument("--queue-delay", type=int, default=0, metavar="US", help="how long to wait for a fuller batch (default: 0)")

    serving.add_argument("--target", default=TRITON_RELEASE, metavar="YY.MM", help=f"the tritonserver release (default: {TRITON_RELEASE})")

    tensorrt = parser.add_argument_group("TensorRT plans")
    add_tuning(tensorrt)
    tensorrt.add_argument(
        "--plan", type=Path, action="append", default=[], metavar="FILE", help="one that another GPU's machine has built and proven"
    )
    tensorrt.add_argument("--in-image", action="store_true", help="build inside the target's NVIDIA image, in Docker")

    parser.add_argument("--json", action="store_true", help="print the manifests to standard output")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    return parser


def _request(options: argparse.Namespace) -> Request:
    """The options as one validated value.

    Raises:
        OptionError: They do not go together.
    """
    from dataclasses import replace

    from client.decoding import OutputKind
    from client.errors import ContractError
    from client.preprocessing import Preprocessing
    from export.config import Serving
    from export.errors import OptionError
    from export.network import ARCHITECTURES
    from export.request import Request
    from export.tensorrt.plan import PlanRequest

    architecture = ARCHITECTURES.get(options.architecture)
    if architecture is None:
        raise OptionError(f"unknown architecture {options.architecture!r}: choose from {', '.join(ARCHITECTURES)}")
    if options.classes is not None:
        if not options.weights.startswith("seeded"):
            raise OptionError("--classes is for seeded weights: any others tell their own class count")
        if options.classes < 1:
            raise OptionError(f"--classes must be at least 1, not {options.classes}")
        architecture = replace(architecture, classes=options.classes)
    given = {"mean": options.mean, "std": options.std}
    try:
        preprocessing = Preprocessing(
            resize=options.resize or options.crop + 32,
            crop=options.crop,
            interpolation=options.interpolation,
            **{name: value for name, value in given.items() if value},
        )
    except ContractError as error:
        raise OptionError(str(error)) from None
    return Request(
        weights=options.weights,
        repository=options.repository,
        formats=tuple(filter(None, options.formats.split(","))),
        precision=options.precision,
        quantization=_quantization(options),
        fp32_squeeze=options.fp32_squeeze,
        name=options.name,
        architecture=architecture,
        output=OutputKind(options.output),
        preprocessing=preprocessing,
        serving=Serving(
            max_batch=options.max_batch,
            device=options.device,
            instances=options.instances,
            threads=options.threads,
            queue_size=options.queue_size,
            queue_timeout_ms=options.queue_timeout,
            queue_delay_us=options.queue_delay,
        ),
        target=options.target,
        plans=PlanRequest(tuning_of(options), tuple(options.plan), options.in_image),
        labels=options.labels,
        force=options.force,
    )


def _quantization(options: argparse.Namespace) -> Quantization | None:
    from export.errors import OptionError
    from export.quantization import Quantization

    if options.calibration is None:
        if options.truth or options.keep_fp32:
            raise OptionError("--truth and --keep-fp32 are for INT8: name them with --precision int8 and --calibration DIR")
        return None
    keep = tuple(filter(None, options.keep_fp32.split(",")))
    return Quantization(options.calibration, options.calibration_method, keep, options.truth, options.min_agreement)


def _possible(request: Request) -> tuple[Request, str]:
    """The request without what this machine cannot make, and one line on that; empty where there is nothing.

    Raises:
        MissingHardware: Nothing is left of it.
    """
    from dataclasses import replace

    from export.errors import MissingHardware
    from export.pipeline import lacking

    lacks = lacking(request)
    formats = tuple(name for name in request.formats if name not in lacks)
    line = "; ".join(f"left out: {name}, because this machine lacks {what}" for name, what in lacks.items())
    if not formats:
        raise MissingHardware(line)
    return replace(request, formats=formats), line


def _conclude(outcomes: Sequence[Outcome], reporter: Reporter, seconds: float) -> None:
    """What was published, how well it agrees with the network, and what it cost."""
    parity = outcomes[0].manifest.parity
    batches = ", ".join(map(str, parity["batches"]))
    inputs = "images held out of calibration" if outcomes[0].manifest.quantization else "inputs"
    reporter.note(f"against the eager FP32 network: {parity['samples']} {inputs}, each at batch {batches}")
    reporter.table(_parity_table([outcome.manifest for outcome in outcomes]))
    for outcome in outcomes:
        size = outcome.manifest.bytes / 1e6
        reporter.note(f"{'published' if outcome.made else 'there already'}: {outcome.folder} ({size:.1f} MB)")
    for ranges in [outcome.manifest.ranges for outcome in outcomes if outcome.manifest.ranges][:1]:
        largest = ranges["largest"]
        reporter.note(f"FP16 holds {ranges['headroom']:.0f} times the largest value, {largest['value']:.4g} in {largest['tensor']}")
    for quantization in [outcome.manifest.quantization for outcome in outcomes if outcome.manifest.quantization][:1]:
        for line in _quantization_lines(quantization):
            reporter.note(line)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    reporter.note(f"took {seconds:.1f} s, peak memory {peak:.2f} GB")
    if not all(outcome.manifest.weights.trained for outcome in outcomes):
        for line in UNTRAINED:
            reporter.note(line, style="bold yellow reverse")


def _parity_table(manifests: Sequence[Manifest]) -> Table:
    """A column for each artifact; the figures are those of the gate it passed."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    scores = "log-probabilities" if manifests[0].output == "probabilities" else "logits"
    table.add_column("")
    for facts in manifests:
        table.add_column(facts.format if facts.precision == "fp32" else f"{facts.format} {facts.precision}", justify="right")
    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        f"relative error of the {scores}": lambda parity: f"{parity['relative_error']:.1e}",
        "  allowed": lambda parity: f"{parity['bound']:.1e}",
        "  between batch neighbours": lambda parity: f"{parity['neighbour_error']:.1e}",
        "largest error of the output": lambda parity: f"{parity['max_abs_error']:.1e}",
        "smallest cosine": lambda parity: f"{parity['cosine']:.9f}",
        "run on": lambda parity: str(parity["device"]),
        "top-1 agreement": lambda parity: f"{parity['top1']:.0%}",
        "top-5 agreement": lambda parity: f"{parity['top5']:.0%}",
    }
    if manifests[0].parity.get("accuracy") is not None:
        rows["accuracy"] = lambda parity: f"{parity['accuracy']:.1%}"
        rows["  of the network"] = lambda parity: f"{parity['network_accuracy']:.1%}"
    for label, cell in rows.items():
        table.add_row(label, *(cell(facts.parity) for facts in manifests))
    return table


def _quantization_lines(facts: dict[str, Any]) -> list[str]:
    """How a network was quantised, and where that hurts most."""
    tried = ", ".join(f"{name} {error:.1e}" for name, error in facts["methods"].items())
    layers = facts["layers"]
    worst = ", ".join(f"{name} {noise:.1%}" for name, noise in list(layers.items())[:4])
    kernels = ", ".join(f"{count} in {kind}" for kind, count in facts["kernels"].items())
    return [
        f"calibrated on {facts['calibration_images']} images by {facts['method']}" + (f" (errors there: {tried})" if tried else ""),
        f"{facts['int8']} of {facts['int8'] + len(facts['keep_fp32'])} layers in INT8; the noise on a layer's output is largest in {worst}",
        f"OpenVINO runs the convolutions, squeezes and expansions included, {kernels}",
    ]


def _three_numbers(text: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers, R,G,B") from None
    return red, green, blue
