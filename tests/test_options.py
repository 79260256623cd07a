"""The options of all commands: scripts of users depend on them."""

from __future__ import annotations

import re

from tests.options import LISTED, line, of_all_commands, plain

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
