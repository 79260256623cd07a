"""The command line: `python -m perf overhead`."""

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

exit codes:
  0  measured
  1  the repository cannot be served
  2  wrong usage
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m perf",
        description="Measure what serving costs.",
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
    return _overhead(parser.parse_args(arguments))


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
