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
_DISTRIBUTION = "seresnext101-triton"
_UNAVAILABLE = 69

# How the console command reaches each package that can also be started with `python -m`.
_CONSOLE = {
    "client": CONSOLE_COMMAND,
    "export": f"{CONSOLE_COMMAND} export",
    "perf": f"{CONSOLE_COMMAND} perf",
    "server": f"{CONSOLE_COMMAND} serve",
}
_MODULE_COMMAND = re.compile(rf"python -m ({'|'.join(_CONSOLE)})\b")
_EXTRAS = re.compile(r"'\.(\[[a-z,-]+\])'")


def as_typed(text: str) -> str:
    """Write the commands in a text as they work here: as this process was started, and installed.

    Args:
        text: A text that names commands as `python -m client|export|perf|server`, and installs
            extras with `pip install '.[EXTRA]'`.

    Returns:
        The text with `seresnext101 ...` in place of each command if the console command runs,
        because `python -m` finds the user's own `client.py` first; with
        `python -m seresnext101_triton.client` if the process was started so; and with the place
        that this project was installed from in place of the dot.
    """
    text = _EXTRAS.sub(lambda found: f"'{_requirement(found[1])}'", text)
    if sys.argv[0] == CONSOLE_COMMAND:
        return _MODULE_COMMAND.sub(lambda found: _CONSOLE[found[1]], text)
    started = getattr(sys.modules["__main__"], "__spec__", None)
    if started is not None and started.name.startswith(f"{__name__}."):
        return _MODULE_COMMAND.sub(rf"python -m {__name__}.\1", text)
    return text


def _requirement(extras: str) -> str:
    """What pip takes to install this project again, with `[EXTRA,...]` of its extras."""
    import json
    from importlib.metadata import PackageNotFoundError, distribution
    from pathlib import Path

    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").exists():
        return f".{extras}" if checkout == Path.cwd() else f"{checkout}{extras}"
    try:
        source = distribution(_DISTRIBUTION).read_text("direct_url.json")  # of PEP 610
    except PackageNotFoundError:
        source = None
    if source is None:
        return f"{_DISTRIBUTION}{extras}"
    facts = json.loads(source)
    vcs = facts.get("vcs_info")
    url = f"{vcs['vcs']}+{facts['url']}@{vcs['commit_id']}" if vcs else facts["url"]
    return f"{_DISTRIBUTION}{extras} @ {url}"


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
        The exit code of `main`; 1 if the reader of standard output has ended; EX_UNAVAILABLE of
        sysexits.h if a package or the version is missing, after one line on standard error that
        says so.
    """
    from seresnext101_triton.client.output import ReaderGone
    from seresnext101_triton.client.process import open_standard_streams

    open_standard_streams()
    if sys.version_info < (3, 11):  # noqa: UP036  (the client and the server run on 3.10)
        print("error: this command needs Python 3.11 or later", file=sys.stderr)
        return _UNAVAILABLE
    try:
        return int(import_module(module).main())
    except ReaderGone:
        return 1
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", __package__, *_CONSOLE):
            raise  # a module of this project: a bug
        line = f"error: {package} is not installed: pip install '.[{extra}]'"
        print(as_typed(line), file=sys.stderr)
        return _UNAVAILABLE
