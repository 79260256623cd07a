"""List the versions of models: when each was published, from which weights, and what is served.

The columns: when the version was published (UTC), its format and precision, its weights and the
beginning of their sha256, the relative error in the parity gate, the size of its files, and whether
it is served. `now`: a server of this user on this machine answers with it. `by policy`: the version
policy names it, so that a server serves it from its next start on.

Examples:
  python -m export versions
  python -m export versions seresnext101_onnx --json

exit codes:
  0   listed
  1   there is no such model, or a server does not say what it serves
  2   wrong usage
  73  the repository cannot be read
"""

from __future__ import annotations

import argparse

from seresnext101_triton.export.commands import add_models

HELP = "list the versions of models, and which are served"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the models."""
    add_models(parser)


def run(arguments: argparse.Namespace) -> int:
    """List the versions."""
    from seresnext101_triton.export.history import history
    from seresnext101_triton.export.tables import print_history

    print_history(history(arguments.repository, arguments.models), as_json=arguments.json)
    return 0
