"""SE-ResNeXt101-32x4d on Triton Inference Server: the version, and the console command."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__version__ = "0.1.0"

__all__ = ["CONSOLE_COMMAND", "__version__", "add_version", "as_typed", "run_with_extra"]

CONSOLE_COMMAND = "seresnext101"
_UNAVAILABLE = 69

# How the console command reaches each package that can also be started with `python -m`.
_CONSOLE = {
    "client": CONSOLE_COMMAND,
    "export": f"{CONSOLE_COMMAND} export",
    "perf": f"{CONSOLE_COMMAND} perf",
    "server": f"{CONSOLE_COMMAND} serve",
}
_MODULE_COMMAND = re.compile(rf"python -m ({'|'.join(_CONSOLE)})\b")


def as_typed(text: str) -> str:
    """Write the commands in a text the way the user started this process.

    Args:
        text: A text that names commands as `python -m client|export|perf|server`.

    Returns:
        The text with `seresnext101 ...` in place of each, if the console command runs, because
        `python -m` finds the user's own `client.py` first. Otherwise the text as it is.
    """
    if sys.argv[0] != CONSOLE_COMMAND:
        return text
    return _MODULE_COMMAND.sub(lambda found: _CONSOLE[found[1]], text)


def add_version(parser: argparse.ArgumentParser) -> None:
    """Give a command line the option `--version`."""
    version = f"{CONSOLE_COMMAND} {__version__}"
    parser.add_argument("--version", action="version", version=version, help="print the version")


def run_with_extra(module: str, extra: str) -> int:
    """Run a command line that needs the packages of an extra, and Python 3.11.

    Args:
        module: The module with the function `main`.
        extra: The extra of this project that installs the packages.

    Returns:
        The exit code of `main`; EX_UNAVAILABLE of sysexits.h if a package or the version is
        missing, after one line on standard error that says so.
    """
    if sys.version_info < (3, 11):  # noqa: UP036  (the client and the server run on 3.10)
        print("error: this command needs Python 3.11 or later", file=sys.stderr)
        return _UNAVAILABLE
    try:
        return int(import_module(module).main())
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", __package__, *_CONSOLE):
            raise  # a module of this project: a bug
        print(f"error: {package} is not installed: pip install '.[{extra}]'", file=sys.stderr)
        return _UNAVAILABLE
