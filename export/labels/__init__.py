"""The names of classes."""

from __future__ import annotations

from pathlib import Path

from export.errors import OptionError

IMAGENET = Path(__file__).with_name("imagenet1k.txt")


def labels_for(classes: int, choice: str | None) -> str | None:
    """The content of a labels file, one name a line, or None for a model without names.

    Args:
        classes: How many names there must be.
        choice: A file, or `none`; when not given, ImageNet's names for 1000 classes and none for any other count.

    Raises:
        OptionError: The file cannot be read, or holds another number of names.
    """
    if choice == "none" or (choice is None and classes != 1000):
        return None
    path = Path(choice) if choice else IMAGENET
    try:
        names = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--labels {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(names) != classes:
        raise OptionError(f"--labels {path} names {len(names)} classes, but the network has {classes}: one name a line")
    if blank := [number for number, name in enumerate(names, start=1) if not name.strip()]:
        raise OptionError(f"--labels {path}: line {blank[0]} is blank")
    return "\n".join(names) + "\n"
