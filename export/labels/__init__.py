"""The names of classes."""

from __future__ import annotations

import stat
import unicodedata
from pathlib import Path

from seresnext101_triton.export.errors import OptionError

IMAGENET = Path(__file__).with_name("imagenet1k.txt")
_MAX_BYTES = 16 << 20
# Characters that turn the text behind them around: a terminal would show another name than the file
# has.
_BIDIRECTIONAL_CONTROLS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def labels_for(classes: int, choice: str | None) -> str | None:
    """The content of a labels file, one name a line, or None for a model without names.

    Args:
        classes: How many names there must be.
        choice: A file, or `none`; when not given, ImageNet's names for 1000 classes and none for
            any other count.

    Raises:
        OptionError: The file cannot be read, is no UTF-8 text, or holds another number of names, or
            characters that no name has.
    """
    if choice == "none" or (choice is None and classes != 1000):
        return None
    path = IMAGENET if choice is None else Path(choice)
    names = [line.removesuffix("\r") for line in _text(path).split("\n")]
    while names and not names[-1]:
        names.pop()
    for number, name in enumerate(names, start=1):
        if not name.strip():
            raise OptionError(f"`labels` {path}: line {number} is blank")
        if wrong := next((character for character in name if _is_control(character)), None):
            raise OptionError(
                f"`labels` {path}: line {number} has the control character "
                f"U+{ord(wrong):04X}: a name is plain text"
            )
    if len(names) != classes:
        if names and names[0].lstrip()[:1] in ("{", "["):
            raise OptionError(
                f"`labels` {path} is JSON or the like: write the names as plain text, "
                "one a line, in the order of the classes"
            )
        raise OptionError(
            f"`labels` {path} names {len(names)} classes, but the network has {classes}: "
            "one name a line"
        )
    return "\n".join(names) + "\n"


def _text(path: Path) -> str:
    """The text of a regular file, without a byte order mark.

    Raises:
        OptionError: It cannot be read, or is no UTF-8.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # reading a FIFO would wait for its writer
            what = (
                "a folder: name the file in it"
                if stat.S_ISDIR(mode)
                else "no regular file: copy what it gives into one"
            )
            raise OptionError(f"`labels` {path} is {what}")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"`labels` {path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if len(content) > _MAX_BYTES:
        raise OptionError(
            f"`labels` {path} is larger than {_MAX_BYTES >> 20} MB: write one name a line"
        )
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise OptionError(f"`labels` {path} is UTF-16: save it as UTF-8")
    try:
        return content.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.removeprefix(b"\xef\xbb\xbf").count(b"\n", 0, error.start) + 1
        raise OptionError(
            f"`labels` {path}: line {line} is not UTF-8: save the file as UTF-8"
        ) from None


def _is_control(character: str) -> bool:
    return (
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or character in _BIDIRECTIONAL_CONTROLS
        or character == "\ufeff"
    )
