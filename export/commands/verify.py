"""Compare every file of a repository with what was published.

The sha256 of each artifact is compared with the manifest of its version. The config.pbtxt of the
served version must tell clients to prepare images as the artifact was proven with. A version
without a manifest is unknown: this toolkit did not publish it, or its manifest was removed.

Examples:
  python -m export verify
  python -m export verify seresnext101_onnx --json

exit codes:
  0   every version with a manifest is intact
  1   there is no such model
  2   wrong usage
  65  a file is not the one that was published
  73  the repository cannot be read
"""

from __future__ import annotations

import argparse

from seresnext101_triton.export.commands import add_models

HELP = "compare every file of a repository with what was published"
_DATA_ERROR = 65


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the models."""
    add_models(parser)


def run(arguments: argparse.Namespace) -> int:
    """Verify. The exit code is 65 if a file is not the one that was published."""
    from rich.console import Console

    from seresnext101_triton.export.tables import print_verdicts
    from seresnext101_triton.export.verification import verify

    with Console(stderr=True).status("") as status:
        verdicts = verify(arguments.repository, arguments.models, status.update)
    print_verdicts(verdicts, as_json=arguments.json)
    return _DATA_ERROR if any(verdict.state == "changed" for verdict in verdicts) else 0
