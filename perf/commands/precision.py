"""Measure the network, eager and as TorchScript, in every precision that the device has.

No server is used. The precisions take turns. The weights are seeded.
"""

from __future__ import annotations

import argparse

from seresnext101_triton.perf import console, options

HELP = "compare FP16 with FP32 and TF32, without a server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the device, the network, the batch sizes, and the file of results."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="default: cuda")
    options.add_numbers(parser, "--batches", (1, 8, 32, 128), "images in one run")
    options.add_rounds(parser, 10, "turns of each precision at each batch size")
    options.add_architecture(parser)
    parser.add_argument(
        "--crop",
        type=options.at_once,
        default=224,
        metavar="PX",
        help="the side of the images (default: 224)",
    )
    options.add_results(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, store the record, and print the medians."""
    import torch

    from seresnext101_triton.perf import results
    from seresnext101_triton.perf.machine import circumstances
    from seresnext101_triton.perf.precision import PrecisionOptions, device_name, measure_precision
    from seresnext101_triton.perf.records import PrecisionRecord
    from seresnext101_triton.perf.tables import precision_table

    settings = options.values(PrecisionOptions, arguments)
    results.check_writable(arguments.results)
    with console.progress(len(settings.batches)) as progress:
        measured = measure_precision(settings, progress)
    record = PrecisionRecord(
        **vars(circumstances(console.command_line())),
        device=device_name(settings.device),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        images_per_second=measured,
    )
    results.append(arguments.results, record)
    if arguments.json:
        console.print_json(record.document())
        return 0
    console.print_table(precision_table(measured), "images per second, median")
    console.show(f"written to {arguments.results}")
    return 0
