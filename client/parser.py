"""The parser of every command line of this toolkit: wrong usage ends in one line and code 2."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from seresnext101_triton.client.output import say

_WRONG_USAGE = 2  # argparse's own exit code


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Fills paragraphs to the width of the terminal, and keeps lists and examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        return "\n\n".join(self._filled(each, width, indent) for each in paragraphs)

    def _filled(self, paragraph: str, width: int, indent: str) -> str:
        if re.search("^ ", paragraph, re.MULTILINE):  # a line with an indent is of a list
            return super()._fill_text(paragraph, width, indent)
        return argparse.HelpFormatter._fill_text(self, paragraph, width, indent)


class Parser(argparse.ArgumentParser):
    """argparse's parser, with shorter errors and with arguments that may stand between options.

    An argument of one word or more, such as `IMAGE...`, takes words before and after options:
    argparse itself takes only the first words in a row and refuses all others.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.setdefault("formatter_class", Formatter)
        super().__init__(*arguments, **options)

    def error(self, message: str) -> NoReturn:
        """Print one line and end the process. argparse's own method prints the usage before."""
        say(f"error: {message}; see {self.prog} --help")
        sys.exit(_WRONG_USAGE)

    def parse_known_args(  # type: ignore[override]  # typeshed's overloads say the same
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's method, but nothing is left over.

        Words go to the argument that takes many. An option that does not exist is wrong usage here,
        so that the error names the help of the subcommand.
        """
        found, rest = super().parse_known_args(args, namespace)
        words, unknown = _sorted_out(rest)
        many = [
            action
            for action in self._actions
            if not action.option_strings and action.nargs == argparse.ONE_OR_MORE
        ]
        if unknown or (words and not many):
            self.error(f"unrecognized arguments: {' '.join(unknown or words)}")
        if words:
            setattr(found, many[0].dest, [*getattr(found, many[0].dest), *words])
        return found, []


def _sorted_out(rest: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words and the options in what argparse left over. After `--` there are only words."""
    place = rest.index("--") if "--" in rest else len(rest)
    before, after = rest[:place], rest[place + 1 :]
    unknown = [word for word in before if word.startswith("-") and word != "-"]
    return [word for word in before if word not in unknown] + list(after), unknown
