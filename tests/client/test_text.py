"""Any name and any label, written so that it can be read back and shown."""

from __future__ import annotations

import json
import os
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seresnext101_triton.client.text import escaped, json_text, printable, unescaped, visible

NAMES = st.one_of(st.binary().map(os.fsdecode), st.text(), st.text("\\u005cd89ef\x1b\n\udce9"))


@pytest.mark.parametrize(
    ("text", "shown", "written"),
    [
        ("café.jpg", "café.jpg", "café.jpg"),
        ("日本 \U0001f408.jpg", "日本 \U0001f408.jpg", "日本 \U0001f408.jpg"),
        ("caf\udce9.jpg", "caf\\udce9.jpg", "caf\\udce9.jpg"),
        ("a\nb\tc", "a\\nb\\tc", "a\\u000ab\\u0009c"),
        ("\x1b[31mred\x9b0m\x7f", "\\x1b[31mred\\x9b0m\\x7f", "\\u001b[31mred\\u009b0m\\u007f"),
        ("gpj.\u202egnp", "gpj.\\u202egnp", "gpj.\u202egnp"),
        ("C:\\users", "C:\\users", "C:\\users"),
        ("\\udce9", "\\udce9", "\\u005cudce9"),  # these six characters are a name, too
        ("\\u005c", "\\u005c", "\\u005cu005c"),
        ("\\u0041", "\\u0041", "\\u0041"),
    ],
)
def test_how_text_is_shown_and_written(text, shown, written):
    assert printable(text) == shown
    assert escaped(text) == written
    assert unescaped(written) == text


@given(NAMES)
@example("\\\udc5c")
def test_every_name_is_read_back_as_it_was(name):
    text = escaped(name)
    assert unescaped(text) == name
    assert text.encode().decode() == text
    assert not any(unicodedata.category(character) == "Cc" for character in text)


@given(st.one_of(st.binary().map(os.fsdecode), st.text(), st.text('\u2028\u202e\x85\x9b\x7f"\\')))
def test_json_is_valid_printable_and_read_back(name):
    for text in (json_text({name: [name]}), json_text({name: [name]}, ascii_only=True)):
        assert json.loads(text.encode()) == {name: [name]}
        assert printable(text) == text
    assert json_text([name], ascii_only=True).isascii()


def test_json_has_no_nan():
    with pytest.raises(ValueError, match="JSON"):
        json_text(float("nan"))


@given(NAMES)
def test_what_is_shown_is_one_line_without_commands(name):
    shown = printable(name)
    assert len(shown.splitlines()) == bool(name)
    assert shown.encode().decode() == shown
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cs", "Zl", "Zp"}


@given(NAMES)
@example("\ud7fc")  # not assigned
@example("\ue000\xa0\u200b")  # private, and spaces of other widths
def test_visible_text_has_only_printable_characters(name):
    assert visible(name).isprintable()
    assert visible(visible(name)) == visible(name)


def test_visible_text_keeps_what_is_visible():
    assert visible("café 日本.jpg") == "café 日本.jpg"
