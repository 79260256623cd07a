"""Draws images in a grid, each with its predictions."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from seresnext101_triton.client.decoding import Prediction
from seresnext101_triton.client.errors import ImageError, OutputError
from seresnext101_triton.client.images import ImageOptions, ImageSource, load_image
from seresnext101_triton.client.text import printable, reason

_PICTURE, _LINE, _MARGIN, _TITLE = 280, 24, 16, 44
_INK, _FAINT, _BAR, _PAPER, _WARNING = "#1b1f24", "#6b7280", "#9ecbff", "white", "#b45309"


_LONGEST = 200  # characters of a text; more do not fit
_MOST_PIXELS = 100_000_000  # of the whole gallery, 400 MB in memory


def check_writable(path: Path) -> None:
    """Find out before the images are classified whether their gallery can be written.

    Args:
        path: As for `draw`. A file that exists stays as it is.

    Raises:
        OutputError: The suffix names no format that Pillow writes, or the file cannot be written.
    """
    Image.init()
    if Image.EXTENSION.get(path.suffix.lower()) not in Image.SAVE:
        raise OutputError(
            f"{path} cannot be written: its name must end in the suffix of an image, such as .png"
        )
    try:
        if path.is_dir():
            raise OutputError(f"{path} cannot be written: it is a folder")
        if not path.parent.is_dir():
            raise OutputError(f"{path} cannot be written: {path.parent} is not a folder")
        if not os.access(path.resolve().parent, os.W_OK):
            raise OutputError(f"{path} cannot be written: {path.resolve().parent} is read-only")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None


def draw(
    path: Path,
    entries: Sequence[tuple[ImageSource, Sequence[Prediction]]],
    title: str,
    warning: str = "",
    image_options: ImageOptions = ImageOptions(),
) -> None:
    """Draw images in a grid, each with its predictions below, most likely first.

    The bar of a prediction is as long as its probability. An image that cannot be read any more is
    left empty, with the reason in its place.

    Args:
        path: The file to write. Its suffix chooses the format.
        entries: Images that could be read when they were classified, and their predictions.
        title: Text above the images.
        warning: Text below the images; empty if there is no warning.
        image_options: How the images are opened.

    Raises:
        OutputError: The file cannot be written, and its earlier content is intact; or the gallery
            would be too large.
    """
    rows_of_text = max((len(predictions) for _, predictions in entries), default=0)
    columns = min(len(entries), max(1, math.ceil(math.sqrt(len(entries)))))
    rows = math.ceil(len(entries) / columns)
    cell = (_PICTURE + _MARGIN, _PICTURE + (rows_of_text + 1) * _LINE + 2 * _MARGIN)
    size = (columns * cell[0] + _MARGIN, _TITLE + rows * cell[1] + _MARGIN)
    if size[0] * size[1] > _MOST_PIXELS:
        raise OutputError(
            f"{path} would have {size[0]}x{size[1]} pixels for {len(entries)} pictures: draw "
            "fewer, or with a smaller `top`"
        )
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), printable(title), _INK, _font(18))
    if warning:
        pen.text((_MARGIN, sheet.height - _LINE), warning, _WARNING, _font(13))
    for number, entry in enumerate(entries):
        left = _MARGIN + number % columns * cell[0]
        top = _TITLE + number // columns * cell[1]
        _draw_entry(sheet, (left, top), entry, image_options)
    try:
        _save(sheet, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or reason(error)}") from error
    except (ValueError, KeyError) as error:
        raise OutputError(f"{path} cannot be written: {reason(error)}") from error


def _save(sheet: Image.Image, path: Path) -> None:
    """Write an image. If this fails, an earlier file is intact, and no other one is left."""
    if path.exists() and not path.is_file():  # a device
        sheet.save(path)
        return
    whole = path.resolve()
    partial = whole.with_name(f".{os.getpid()}{whole.suffix}")
    try:
        sheet.save(partial)
        partial.replace(whole)
    finally:
        partial.unlink(missing_ok=True)


def _draw_entry(
    sheet: Image.Image,
    corner: tuple[int, int],
    entry: tuple[ImageSource, Sequence[Prediction]],
    image_options: ImageOptions,
) -> None:
    """Draw one image with its name and its predictions below."""
    left, top = corner
    source, predictions = entry
    pen = ImageDraw.Draw(sheet)
    try:
        picture = _fitted(load_image(source, image_options))
        offset = (_PICTURE - picture.width) // 2, (_PICTURE - picture.height) // 2
        sheet.paste(picture, (left + offset[0], top + offset[1]))
    except ImageError as error:  # the file was changed or removed meanwhile
        text = _fit(pen, reason(error), _PICTURE, 13)
        pen.text((left, top + _PICTURE // 2), text, _WARNING, _font(13))
    top += _PICTURE + 6
    pen.text((left, top), _fit(pen, _name(source), _PICTURE, 13), _FAINT, _font(13))
    for prediction in predictions:
        top += _LINE
        length = max(2, round(_PICTURE * prediction.probability))
        pen.rectangle((left, top, left + length, top + _LINE - 4), _BAR)
        share = f"{prediction.probability:.1%}"
        width = pen.textlength(share, _font(14))
        label = _fit(pen, prediction.label, _PICTURE - width - 16, 14)
        pen.text((left + 4, top + 1), label, _INK, _font(14))
        pen.text((left + _PICTURE - width - 4, top + 1), share, _INK, _font(14))


def _fitted(picture: Image.Image) -> Image.Image:
    """The image scaled to its place. Its proportions are kept, and no side becomes 0."""
    scale = _PICTURE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height))


def _name(source: ImageSource) -> str:
    return Path(source).name if isinstance(source, str | Path) else f"a {type(source).__name__}"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fit(pen: ImageDraw.ImageDraw, text: str, width: float, size: int) -> str:
    """The text on one line, cut off if it is wider than its place."""
    text = printable(text)[:_LONGEST]
    if pen.textlength(text, _font(size)) <= width:
        return text
    while text and pen.textlength(f"{text}…", _font(size)) > width:
        text = text[:-1]
    return f"{text}…"
