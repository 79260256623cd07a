"""One picture of all pictures, each with what a model sees in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from client.decoding import Prediction
from client.errors import OutputError
from client.images import ImageSource, load_image

_PICTURE, _LINE, _MARGIN, _TITLE = 280, 24, 16, 44
_INK, _FAINT, _BAR, _PAPER, _WARNING = "#1b1f24", "#6b7280", "#9ecbff", "white", "#b45309"


def draw(path: Path, entries: Sequence[tuple[ImageSource, Sequence[Prediction]]], title: str, warning: str = "") -> None:
    """Draw the pictures in a grid, most likely class first beneath each, with a bar as long as its probability.

    Args:
        path: Where it goes; its suffix chooses the format.
        entries: Pictures that could be read, and their predictions.
        title: Written above.
        warning: Written beside the title, where there is something to warn of.

    Raises:
        OutputError: The file cannot be written.
    """
    rows_of_text = max((len(predictions) for _, predictions in entries), default=0)
    columns = min(len(entries), max(1, math.ceil(math.sqrt(len(entries)))))
    rows = math.ceil(len(entries) / columns)
    cell = (_PICTURE + _MARGIN, _PICTURE + (rows_of_text + 1) * _LINE + 2 * _MARGIN)
    sheet = Image.new("RGB", (columns * cell[0] + _MARGIN, _TITLE + rows * cell[1] + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), title, _INK, _font(18))
    if warning:
        pen.text((_MARGIN, sheet.height - _LINE), warning, _WARNING, _font(13))
    for number, (source, predictions) in enumerate(entries):
        left = _MARGIN + number % columns * cell[0]
        top = _TITLE + number // columns * cell[1]
        picture = ImageOps.contain(load_image(source), (_PICTURE, _PICTURE))
        sheet.paste(picture, (left + (_PICTURE - picture.width) // 2, top + (_PICTURE - picture.height) // 2))
        top += _PICTURE + 6
        pen.text((left, top), _fit(pen, Path(str(source)).name, _PICTURE, 13), _FAINT, _font(13))
        for prediction in predictions:
            top += _LINE
            pen.rectangle((left, top, left + max(2, round(_PICTURE * prediction.probability)), top + _LINE - 4), _BAR)
            share = f"{prediction.probability:.1%}"
            width = pen.textlength(share, _font(14))
            pen.text((left + 4, top + 1), _fit(pen, prediction.label, _PICTURE - width - 16, 14), _INK, _font(14))
            pen.text((left + _PICTURE - width - 4, top + 1), share, _INK, _font(14))
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written: {error}") from None


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fit(pen: ImageDraw.ImageDraw, text: str, width: float, size: int) -> str:
    """The text, cut off where it would be wider."""
    if pen.textlength(text, _font(size)) <= width:
        return text
    while text and pen.textlength(f"{text}…", _font(size)) > width:
        text = text[:-1]
    return f"{text}…"
