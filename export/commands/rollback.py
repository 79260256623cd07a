"""Have an older version of a model served, until the next promotion.

Without --to, it is the version before the one that is served now. The version comes back with the
config.pbtxt and the labels that it was served with. The change is one step. The servers that this
user runs on the repository follow before the command ends: the first answer afterwards is the older
version's. If one cannot load it, it answers as before, and the repository is as
before.

A version that is published later is not served. `python -m export promote MODEL` returns to the
newest version.

Examples:
  python -m export rollback seresnext101_onnx
  python -m export rollback seresnext101_onnx --to 2

exit codes:
  0   the version is served
  1   there is no such version, or a server cannot load it; nothing was changed
  2   wrong usage
  65  the files of the version are not those that were published; nothing was changed
  73  the repository cannot be written
"""

from __future__ import annotations

import argparse

from seresnext101_triton.export.commands import add_switch

HELP = "have an older version of a model served"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model and the version."""
    add_switch(parser, "the version (default: the one before the version that is served)")


def run(arguments: argparse.Namespace) -> int:
    """Roll back."""
    from seresnext101_triton.client.output import printing
    from seresnext101_triton.export.operations import roll_back
    from seresnext101_triton.export.tables import print_switch

    done = roll_back(arguments.repository, arguments.model, arguments.to, soak_s=arguments.soak)
    with printing(f"version {done.version} of {done.model} is served"):
        print_switch(done, as_json=arguments.json)
    return 0
