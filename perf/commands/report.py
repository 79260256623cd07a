"""Write stored results as one HTML page, as Markdown tables, and as plots."""

from __future__ import annotations

import argparse
from pathlib import Path

from seresnext101_triton.perf import console, options

HELP = "write results as one HTML page, Markdown tables and plots"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the files of results and the folder of the report."""
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="the files of results (default: the file that --results names)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=options.RESULTS.parent,
        metavar="DIR",
        help=f"the folder of the report (default: {options.RESULTS.parent})",
    )
    options.add_results(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the report, and print the paths of its files."""
    from seresnext101_triton.perf import results
    from seresnext101_triton.perf.reporting import report

    paths = arguments.files or [arguments.results]
    records = [record for path in paths for record in results.read(path)]
    for path in report(records, arguments.output):
        console.show(str(path))
    return 0
