"""The console command `seresnext101`, which is also `python -m seresnext101_triton`."""

from __future__ import annotations

import argparse
import runpy
import sys

from seresnext101_triton import CONSOLE_COMMAND, add_version
from seresnext101_triton.client.parser import Parser

# The package of each command, and what the command does.
COMMANDS = {
    "export": ("export", "turn a checkpoint into verified artifacts in a model repository"),
    "serve": ("server", "start a tritonserver on a model repository"),
    "classify": ("client", "print the most likely classes of each image"),
    "bulk": ("client", "classify a folder of any size into a file"),
    "evaluate": ("client", "measure accuracy through the server, and where two models differ"),
    "models": ("client", "list the models of a server and their states"),
    "describe": ("client", "print how a model is to be used"),
    "health": ("client", "tell whether a server is live and ready"),
    "top": ("client", "show live what a server does"),
    "web": ("client", "serve a page to try the models in a browser"),
    "perf": ("perf", "measure, compare and tune what serving costs"),
}


def main() -> None:
    """Run the command that `sys.argv` names, in this process, as `python -m PACKAGE` does."""
    command = _parser().parse_args(sys.argv[1:2]).command
    package, _ = COMMANDS[command]
    # The client has several commands, and reads the command's name itself.
    arguments = sys.argv[1:] if package == "client" else sys.argv[2:]
    sys.argv = [CONSOLE_COMMAND, *arguments]
    runpy.run_module(f"{__package__}.{package}", run_name="__main__")


def _parser() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items())
    parser = Parser(
        prog=CONSOLE_COMMAND,
        usage=f"{CONSOLE_COMMAND} [-h] [--version] COMMAND ...",
        description="Export, serve and use SE-ResNeXt101-32x4d on Triton Inference Server.",
        epilog=f"commands:\n{commands}\n\nHelp of one command: {CONSOLE_COMMAND} COMMAND --help",
    )
    add_version(parser)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
