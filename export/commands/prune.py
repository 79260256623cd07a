"""Remove old versions of models.

The newest N versions stay, and so does every version that a server of this user serves or that the
version policy names. A version is removed whole or not at all. Servers of other users and other
machines are not asked.

Examples:
  python -m export prune --keep 3
  python -m export prune --keep 1 seresnext101_onnx --dry-run

exit codes:
  0   only the versions to keep are left
  1   there is no such model, or a server does not say what it serves; nothing was removed
  2   wrong usage
  73  the repository cannot be written
"""

from __future__ import annotations

import argparse

from seresnext101_triton.export.commands import add_models

HELP = "remove old versions of models"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the models and the number of versions."""
    add_models(parser)
    parser.add_argument(
        "--keep",
        type=int,
        required=True,
        metavar="N",
        help="how many of the newest versions of each model to keep",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be removed, and remove nothing"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prune."""
    from seresnext101_triton.client.output import printing
    from seresnext101_triton.export.operations import prune
    from seresnext101_triton.export.tables import print_pruned

    done = prune(arguments.repository, arguments.keep, arguments.models, dry_run=arguments.dry_run)
    with printing("nothing was to be removed" if arguments.dry_run else "the versions are removed"):
        print_pruned(done, as_json=arguments.json)
    return 0
