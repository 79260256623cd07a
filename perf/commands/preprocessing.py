"""Measure the time to decode and prepare JPEG files on one core.

This client, torchvision and NVIDIA's helper prepare the same files, and take turns.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from seresnext101_triton.perf import console, options

HELP = "compare the speed of this client, torchvision and NVIDIA's helper on images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the number of turns."""
    options.add_rounds(parser, 15, "turns of each way at each size")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print the medians with their ratios to torchvision."""
    from seresnext101_triton.perf.preprocessing import SIZES, measure_preprocessing
    from seresnext101_triton.perf.tables import Table

    results = measure_preprocessing(arguments.rounds)
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
        rows.append([name, *cells, "yes" if all(result.equal for result in row) else "no"])
    header = ["", *(f"{width}x{height}" for width, height in SIZES), "torchvision's bits"]
    title = "ms per image, median, and the ratio of torchvision's time to it"
    console.print_table(Table(header, rows), title)
    return 0
