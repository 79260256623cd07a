"""Reads the content of image files from the disk and from standard input."""

from __future__ import annotations

import os
import stat
import sys

from seresnext101_triton.client.errors import ImageError
from seresnext101_triton.client.text import reason, shortened


def of_file(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """The content of a regular file.

    Raises:
        ImageError: It is missing, no regular file, or longer than `max_bytes`.
    """
    name = shortened(os.fsdecode(path))
    try:
        # Without O_NONBLOCK, opening a FIFO without a writer would block.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            facts = os.fstat(file)
            if stat.S_ISDIR(facts.st_mode):
                raise ImageError(
                    f"{name} is a folder: name the images in it, for example {name}/*.jpg"
                )
            if not stat.S_ISREG(facts.st_mode):
                raise ImageError(
                    f"{name} is not a regular file: pipe it into standard input, which is named -"
                )
            if facts.st_size > max_bytes:
                raise ImageError(f"{name} is refused: it has more than {max_bytes} bytes")
            with os.fdopen(file, "rb", closefd=False) as content:
                return content.read(facts.st_size)
        finally:
            os.close(file)
    except FileNotFoundError as error:
        hint = (
            " (only addresses with http, https, s3, gs and az are fetched)"
            if "://" in name or name.startswith("data:")
            else ""
        )
        raise ImageError(f"{name} does not exist{hint}") from error
    except (
        OSError,
        ValueError,
    ) as error:  # ValueError: a character that no file name can have
        raise ImageError(
            f"{name} cannot be read: {getattr(error, 'strerror', None) or reason(error)}"
        ) from error


def of_standard_input(max_bytes: int) -> bytes:
    """What is piped into this process, at most `max_bytes + 1` bytes of it.

    Raises:
        ImageError: Standard input is closed, or a terminal.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise ImageError("standard input is closed: pipe a picture into it")
    if sys.stdin.isatty():
        raise ImageError(
            "standard input is a terminal: pipe a picture into it, for example - < cat.jpg"
        )
    return sys.stdin.buffer.read(max_bytes + 1)
