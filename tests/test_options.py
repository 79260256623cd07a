"""The options of all commands: scripts of users depend on them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from tests.options import LISTED, line, of_all_commands, plain

# How the help names values that are numbers, files and lists of numbers.
NUMBERS = ("N", "K", "S", "MS", "US", "MB", "MIB", "PX", "PORT", "SHARE", "RATIO", "X")
LISTS = ("R,G,B", "N,N")
PATHS = ("PEM", "PNG", "SOURCE", "FILE", "DIR", "DIR|CSV")
DEFAULT = re.compile(r"\bdefault: ([^\s()]*[^\s(),])\)?$")


def test_the_options_are_those_that_are_listed():
    """A change of the list is one that users see."""
    found = [line(*option) for option in of_all_commands()]
    way_out = f"if it is meant, write {LISTED.name} anew: python -m tests.options > {LISTED}"
    assert found == LISTED.read_text().splitlines(), way_out


def test_every_option_is_explained():
    for command, action in of_all_commands():
        assert action.help, (command, action)


def test_a_default_that_the_help_names_is_the_default():
    named = 0
    for command, action in of_all_commands():
        stated = DEFAULT.search(action.help or "")
        if stated and action.default is not None:
            named += 1
            assert stated[1] == plain(action.default), (command, action)
    assert named > 60


def test_a_value_that_is_no_number_is_refused():
    of_numbers = [
        (command, action)
        for command, action in of_all_commands()
        if action.metavar in NUMBERS + LISTS
    ]
    assert len(of_numbers) > 90
    for command, action in of_numbers:
        for word in ("x", "-", "1;2"):
            with pytest.raises((ValueError, argparse.ArgumentTypeError)):
                pytest.fail(f"{command} {action.dest} takes {action.type(word)!r}")  # type: ignore[misc,operator]


def test_the_name_of_a_file_becomes_a_path():
    named = [
        (command, action)
        for command, action in of_all_commands()
        if action.metavar in PATHS and action.dest not in ("weights", "labels")  # or a keyword
    ]
    assert len(named) > 45
    for command, action in named:
        assert action.type and action.type("tests") == Path("tests"), (command, action)  # type: ignore[operator]


def test_a_repository_without_a_name_is_not_the_current_folder():
    found = [each for _, each in of_all_commands() if "--repository" in each.option_strings]
    assert len(found) > 15
    for action in found:
        with pytest.raises(argparse.ArgumentTypeError, match="the name is empty"):
            action.type("")  # type: ignore[misc,operator]
