"""Writes to standard output and standard error, also if they are closed or not UTF-8."""

from __future__ import annotations

import re
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TextIO

from seresnext101_triton import as_typed
from seresnext101_triton.client.errors import OutputError, ToolkitError
from seresnext101_triton.client.text import printable


class ReaderGone(Exception):
    """The reader of standard output, for example `head`, has ended."""


@contextmanager
def standard_output() -> Iterator[TextIO]:
    """Standard output. It is flushed at the end, so that an error is raised here.

    Raises:
        ReaderGone: The reader has ended.
        OutputError: Standard output is closed or cannot be written.
    """
    if sys.stdout is None:
        raise OutputError("standard output is closed, and the answers belong there")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        raise ReaderGone from None
    except OSError as error:
        raise OutputError(f"standard output cannot be written: {error.strerror or error}") from None


@contextmanager
def printing(done: str) -> Iterator[None]:
    """Print what a command has done. If that fails, the error says that it is done.

    Args:
        done: What the command has done, for example `version 2 of m is served`.

    Raises:
        OutputError: Standard output is closed or cannot be written.
    """
    try:
        yield
    except OutputError as error:
        raise OutputError(f"{done}, but this cannot be printed: {error}") from None


def encodes(text: str) -> bool:
    """Whether the encoding of standard output has all characters of a text."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def say(line: object) -> None:
    """Write one line to standard error. A closed standard error is ignored."""
    with suppress(OSError, ValueError):
        sys.stderr.write(printable(line) + "\n")


def flags_of(parser: ArgumentParser) -> dict[str, str]:
    """The flag of each parameter of the library. An option's `dest` is the parameter's name."""
    options = [action for action in parser._actions if action.option_strings]
    return {action.dest: action.option_strings[0] for action in options}


def with_flags(error: object, flags: Mapping[str, str]) -> str:
    """The text of an error, with a command's flags in place of the library's parameters.

    Args:
        error: An error, or its text, which names parameters in backquotes.
        flags: The flag of each parameter. Other names in backquotes stay as they are.

    A parameter with a value, `precision=fp16`, becomes a flag with that value.
    """

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        if name not in flags:
            return found[0]
        return flags[name] if value is None else f"{flags[name]} {value}"

    return re.sub("`([a-z0-9_.]+)(?:=([^`]*))?`", flag, str(error))


def report(error: ToolkitError, flags: Mapping[str, str] | None = None) -> int:
    """Write an error to standard error, as every command of this toolkit does.

    Args:
        error: The error.
        flags: As for `with_flags`.

    Returns:
        The exit code of the command.
    """
    text = as_typed(with_flags(error, flags or {}))
    for line in f"error: {text}".split("\n"):
        say(line)
    return error.exit_code


def say_traceback(error: BaseException) -> None:
    """Write the traceback of an error and of its causes to standard error."""
    for line in "".join(traceback.format_exception(error)).splitlines():
        say(line)
