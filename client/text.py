"""Makes text from outside fit for a terminal, for JSON, CSV and Parquet.

Names of files, labels and messages of other libraries may hold any character, also bytes that are
not UTF-8. Python gives such a byte of a file's name as a lone surrogate, U+DC80 to U+DCFF (PEP
383), which no valid UTF-8 holds.
"""

from __future__ import annotations

import json
import re

_SURROGATES = "\ud800-\udfff"
_LONGEST = 1024  # characters; a path of Linux has at most 4096 bytes, but a `data:` URL any
_CONTROLS = "\x00-\x1f\x7f-\x9f"
# Line separators, and characters that change the direction of writing: with them a terminal shows
# a name as another one.
_MISLEADING = "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_UNPRINTABLE = re.compile(f"[{_CONTROLS}{_MISLEADING}{_SURROGATES}]")
# What `escaped` writes after a backslash: the code of a surrogate, of a control character, or of a
# backslash.
_CODE = "u(d[89a-f][0-9a-f]{2}|00[01789][0-9a-f]|005c)"
_TO_ESCAPE = re.compile(rf"[{_CONTROLS}{_SURROGATES}]|\\(?={_CODE})")
_ESCAPE = re.compile(rf"\\{_CODE}")


def printable(text: object) -> str:
    r"""Text that a terminal can show, on one line.

    Control characters and bytes that are not UTF-8 are written as `\n`, `\x1b`, `\udce9`.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def visible(text: object) -> str:
    r"""`printable`, with every character escaped that Python does not count as printable.

    Those are also unassigned, private and invisible characters. This is for texts of foreign files
    and servers. Names of the user's own files and labels keep such characters.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in printable(text)
    )


def shortened(text: str) -> str:
    """`printable`, without the middle of a text that is longer than any sensible name."""
    shown = printable(text[: 2 * _LONGEST])
    return (
        shown
        if len(shown) <= _LONGEST
        else f"{shown[: _LONGEST // 2]}…{printable(text[-_LONGEST // 4 :])}"
    )


def reason(error: BaseException) -> str:
    """The text of an exception on one line, or its type if it has no text."""
    said = " ".join(str(error).split())
    return shortened(said) if said else type(error).__name__


def escaped(text: str) -> str:
    """Text that is valid UTF-8 on one line, for CSV and Parquet. `unescaped` is the inverse.

    A surrogate or a control character becomes a backslash, `u` and four hexadecimal digits. A
    backslash becomes such an escape only if it would be read as the beginning of one, so that names
    that need no escape stay as they are.
    """
    return _TO_ESCAPE.sub(_code, text)


def unescaped(text: str) -> str:
    """The inverse of `escaped`."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)


def json_text(document: object, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """Strict JSON (RFC 8259) that is valid UTF-8 and that a terminal can show.

    The characters that `printable` escapes are written with JSON's own escapes, from which readers
    restore them.

    Args:
        document: What `json` can write.
        indent: Spaces of each level; None writes one line.
        ascii_only: Escape every character beyond ASCII.

    Raises:
        ValueError: The document holds a NaN or an infinity, which JSON cannot express.
    """
    return _UNPRINTABLE_IN_JSON.sub(
        _code, json.dumps(document, ensure_ascii=ascii_only, allow_nan=False, indent=indent)
    )


_UNPRINTABLE_IN_JSON = re.compile(
    f"[\x7f-\x9f{_MISLEADING}{_SURROGATES}]"
)  # json itself escapes those below a space


def _code(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
