"""What the commands take, one option a line: `python -m tests.options > tests/options.txt`."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path

import seresnext101_triton.export.commands as versions

LISTED = Path(__file__).with_suffix(".txt")
_NOT_OURS = argparse._HelpAction | argparse._VersionAction
_NO_DEFAULT: tuple[object, ...] = (None, False, "", [], argparse.SUPPRESS)


def of_all_commands() -> Iterator[tuple[str, argparse.Action]]:
    """Every option and argument, with the name of its command."""
    for package in ("client", "server", "server.fleet", "export", "perf"):
        name = "options" if package == "export" else "cli"
        module = importlib.import_module(f"seresnext101_triton.{package}.{name}")
        yield from _of(module._parser(), package)
    for name in versions.COMMANDS:
        yield from _of(versions.parser(name), f"export {name}")


def _of(parser: argparse.ArgumentParser, command: str) -> Iterator[tuple[str, argparse.Action]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, subparser in action.choices.items():
                yield from _of(subparser, f"{command} {name}")
        elif not isinstance(action, _NOT_OURS):
            yield command, action


def line(command: str, action: argparse.Action) -> str:
    """An option with its value, or its choices, and its default; `...` if it can be repeated."""
    words = [command, *(action.option_strings or [action.dest])]
    if action.nargs != 0:
        choices = action.choices and "|".join(map(str, action.choices))
        words += [str(choices or action.metavar), *([str(action.nargs)] if action.nargs else [])]
    if isinstance(action, argparse._AppendAction):
        words.append("...")
    if action.default not in _NO_DEFAULT:
        words.append(f"= {plain(action.default)}")
    return " ".join(map(str, words))


def plain(value: object) -> str:
    """A default as it is typed."""
    if isinstance(value, tuple):
        return ",".join(map(plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    print("\n".join(line(*option) for option in of_all_commands()))
