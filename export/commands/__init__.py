"""The commands of `python -m export` besides the export itself.

A command is one module here, and one line of `COMMANDS`. The docstring of the module describes the
command in its `--help`. Heavy packages are imported in `run`, so that `--help` is fast.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from seresnext101_triton import as_typed
from seresnext101_triton.client.errors import ToolkitError
from seresnext101_triton.client.options import named, positive, waiting
from seresnext101_triton.client.output import flags_of, report
from seresnext101_triton.client.parser import Parser

COMMANDS = ("versions", "canary", "promote", "rollback", "prune", "verify")


class Command(Protocol):
    """A module of this package.

    Attributes:
        HELP: One line for the list of commands.
    """

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""

    def run(self, arguments: argparse.Namespace, /) -> int:
        """Run the command, and return its exit code."""


def load(name: str) -> Command:
    """Import the module of a command."""
    return cast(Command, import_module(f"{__name__}.{name}"))


def run(name: str, arguments: Sequence[str]) -> int:
    """Run a command, and return its exit code.

    Args:
        name: One of `COMMANDS`.
        arguments: What follows the name on the command line.
    """
    known = parser(name)
    options = known.parse_args(arguments)
    from seresnext101_triton.export.sharing import opened

    try:
        with opened(options.repository) as place:
            options.repository = place.folder
            return load(name).run(options)
    except ToolkitError as error:
        return report(error, flags_of(known))


def parser(name: str) -> Parser:
    """The options of a command."""
    command = load(name)
    made = Parser(
        prog=as_typed(f"python -m export {name}"), description=as_typed(command.__doc__ or "")
    )
    command.add_arguments(made)
    made.add_argument(
        "--repository",
        type=named,
        default="model_repository",
        metavar="DIR|URL",
        help="a folder, or s3://BUCKET/PATH (default: model_repository)",
    )
    made.add_argument("--json", action="store_true", help="print one JSON document")
    return made


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add names of models, all of which may be left out."""
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: all models")


def add_switch(parser: argparse.ArgumentParser, help: str) -> None:
    """Add the name of a model, and `--to N`."""
    parser.add_argument("model", metavar="MODEL", help="the name of the model")
    parser.add_argument("--to", type=positive, metavar="N", help=help)
    parser.add_argument(
        "--soak",
        type=waiting,
        default=0.0,
        metavar="SECONDS",
        help="have each server answer its callers for this time before the next one follows, and "
        "go back if more of their requests fail than before (default: 0, do not wait)",
    )
