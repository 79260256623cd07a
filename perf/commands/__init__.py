"""The commands of `python -m perf`. A command is one module here, and one line of `COMMANDS`.

The docstring of the module describes the command in its `--help`. Heavy packages are imported in
`run`, so that `--help` is fast.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Protocol, cast

COMMANDS = (
    "install",
    "sweep",
    "compare",
    "raw",
    "cpu",
    "layers",
    "flames",
    "crops",
    "tune",
    "advise",
    "plan",
    "report",
    "overhead",
    "inputs",
    "precision",
    "preprocessing",
    "bulk",
)


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
