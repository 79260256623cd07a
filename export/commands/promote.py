"""Have a version of a model served.

Without --to, the newest version is served, and later each version that is published. With --to N,
version N is served until the next promotion or rollback; a version that is published meanwhile
waits for its own promotion.

The version comes with the config.pbtxt and the labels that it was published with. The change is one
step. The servers that this user runs on the repository follow before the command ends: they answer
with the old version until the new one is loaded and warmed up. If one cannot load it, it
answers as before, and the repository is as before.

Examples:
  python -m export promote seresnext101_onnx
  python -m export promote seresnext101_onnx --to 3

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

HELP = "have a version of a model served"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model and the version."""
    add_switch(parser, "the version (default: the newest, and each one that is published later)")


def run(arguments: argparse.Namespace) -> int:
    """Promote."""
    from seresnext101_triton.client.output import printing
    from seresnext101_triton.export.operations import promote
    from seresnext101_triton.export.tables import print_switch

    done = promote(arguments.repository, arguments.model, arguments.to, soak_s=arguments.soak)
    with printing(f"version {done.version} of {done.model} is served"):
        print_switch(done, as_json=arguments.json)
    return 0
