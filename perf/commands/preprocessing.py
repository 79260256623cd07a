"""Measure the time to decode and prepare JPEG files on one core.

This client, torchvision and NVIDIA's helper prepare the same files, and take turns. With a model,
it measures instead what the client's options --draft and --fast change in the model's answers.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from seresnext101_triton.perf import console, options

_SIZES = [(500, 375), (1280, 960), (4000, 3000)]
HELP = "compare the speed of this client, torchvision and NVIDIA's helper on images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the number of turns, and the model."""
    options.add_rounds(parser, 15, "turns of each way at each size")
    parser.add_argument(
        "--size",
        type=options.size,
        action="append",
        metavar="WIDTHxHEIGHT",
        help="a size of the images in pixels; repeat it for several (default: 500x375, 1280x960 "
        "and 4000x3000)",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="measure what --draft and --fast change in its answers"
    )
    options.add_number(parser, "--images", 100, "images that the model answers")
    options.add_repository(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print a table."""
    return _print_effects(arguments) if arguments.model else _print_speeds(arguments)


def _print_speeds(arguments: argparse.Namespace) -> int:
    """The medians with their ratios to torchvision."""
    from seresnext101_triton.perf.preprocessing import measure_preprocessing
    from seresnext101_triton.perf.tables import Table

    sizes = arguments.size or _SIZES
    results = measure_preprocessing(sizes, arguments.rounds)
    if arguments.json:
        console.print_json([asdict(each) | {"median_ms": each.median} for each in results])
        return 0
    base = [result.median for result in results if result.name == "torchvision"]
    rows = []
    for name in dict.fromkeys(result.name for result in results):
        row = [result for result in results if result.name == name]
        cells = [
            f"{result.median:6.1f}  {slow / result.median:.2f}x"
            for result, slow in zip(row, base, strict=True)
        ]
        same = all(result.equal for result in row)
        difference = max(result.levels for result in row)
        rows.append([name, *cells, "none" if same else f"{difference:g} of 255"])
    header = ["", *(f"{width}x{height}" for width, height in sizes), "largest difference"]
    title = "ms per image, median, and the ratio of torchvision's time to it"
    console.print_table(Table(header, rows), title)
    return 0


def _print_effects(arguments: argparse.Namespace) -> int:
    """What each inexact option changes in a model's answers."""
    from seresnext101_triton.perf.inexact import measure_effects
    from seresnext101_triton.perf.tables import Table

    with console.progress(arguments.images) as progress:
        effects = measure_effects(arguments.repository, arguments.model, arguments.images, progress)
    if arguments.json:
        console.print_json([asdict(effect) for effect in effects])
        return 0
    rows = [
        [
            " ".join(f"--{name}" for name in effect.inexact),
            f"{effect.change:.1e}",
            f"{effect.same_first} of {effect.images}",
        ]
        for effect in effects
    ]
    table = Table(["", "largest change of an output, relative", "same class first"], rows)
    console.print_table(table, f"{arguments.model}, compared with images that are opened exactly")
    return 0
