"""Write crops of this project's photographs, to calibrate INT8 with if one has no images."""

from __future__ import annotations

import argparse
from pathlib import Path

from seresnext101_triton.perf import options

HELP = "write images to calibrate with: crops of the photographs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder and the number of crops."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder to write to")
    options.add_number(parser, "--count", 100, "the number of images")


def run(arguments: argparse.Namespace) -> int:
    """Write the crops."""
    from seresnext101_triton.perf.crops import write_crops

    write_crops(arguments.folder, arguments.count)
    return 0
