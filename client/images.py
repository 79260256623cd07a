"""Opens images of every kind. An error says which image cannot be opened, and why."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageFile

from seresnext101_triton.client import headers
from seresnext101_triton.client.content import of_file, of_standard_input
from seresnext101_triton.client.errors import ImageError
from seresnext101_triton.client.fast import check_installed
from seresnext101_triton.client.pixels import raw_mode, to_rgb
from seresnext101_triton.client.sources import STANDARD_INPUT, Unreadable, is_object, is_url
from seresnext101_triton.client.text import reason, shortened

ImageSource: TypeAlias = "str | Path | bytes | Image.Image | np.ndarray"

PHOTOGRAPHS = Path(__file__).with_name("photographs")
# Pillow's formats whose header says the true size of the image. Left out are EPS, for which Pillow
# starts Ghostscript, icons (ICO and ICNS, which hold an image of another size), and formats without
# pixels of their own (WMF, HDF5, MPEG).
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF"),
    *("QOI", "PSD", "PCX", "SGI", "SUN", "DDS", "TGA"),
)
_LONGEST_SIDE = 1 << 20  # pixels. Pillow keeps a pointer for each row
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED_BACK = {**_TURNS, 6: _TURNS[8], 8: _TURNS[6]}  # every other turn is its own inverse


@dataclass(frozen=True)
class ImageOptions:
    """How images are opened.

    Attributes:
        orient: Whether to turn an image as its EXIF orientation says. NVIDIA's tools do not.
        draft: Length in pixels that the shorter side of a JPEG must keep. Its decoder may scale
            the image to 1/2, 1/4 or 1/8, but not below that length. This is much faster, but the
            result is not exact. None decodes every pixel. With `"model"`, a classifier takes the
            length to which the images of its model are resized.
        fast: Whether images are resized as `seresnext101_triton.client.fast` does, which is not
            exact.
        max_bytes: The largest file that is read, in bytes.
        max_pixels: The largest image that is decoded, in pixels. A small file can contain a huge
            image.
        download_s: The longest time for a download, from the look-up of the host to the last byte,
            in seconds.

    Raises:
        ClientError: `fast` is chosen, and the package that it needs is not installed.
    """

    orient: bool = True
    draft: int | Literal["model"] | None = None
    fast: bool = False
    max_bytes: int = 256 << 20
    max_pixels: int = 89_478_485  # Pillow begins to warn of decompression bombs here
    download_s: float = 30.0

    def __post_init__(self) -> None:
        if self.fast:
            check_installed()

    @property
    def inexact(self) -> list[str]:
        """The options because of which a model's input is not exact."""
        return [name for name in ("draft", "fast") if getattr(self, name)]


def sample_photographs() -> list[Path]:
    """The photographs that are part of the client, in a fixed order."""
    return sorted(PHOTOGRAPHS.glob("*.jpg"))


def load_image(
    source: ImageSource, options: ImageOptions = ImageOptions(), *, name: str = ""
) -> Image.Image:
    """Decode one image completely, to RGB.

    Transparent images get a white background. Of samples with 16 bits, the higher 8 bits are used.
    Of an animation, the first frame is used. Colour profiles are ignored, as in torchvision.

    Args:
        source: The path of a regular file, a URL (http, https, s3, gs or az), `-` for standard
            input, the bytes of an image file, a Pillow image, or a uint8 array [height, width, 3]
            in RGB order.
        options: Limits and options.
        name: What errors call an image that is given as bytes. If it is empty, they give its size.

    Raises:
        ImageError: The file is missing, not a regular file, empty, truncated, not an image, or
            above a limit. If another library raised an exception, it is the error's `__cause__`.
    """
    with errors_of(source):
        if isinstance(source, Image.Image):
            return _from_pillow(source, options)
        if isinstance(source, np.ndarray):
            return _from_array(source, options)
        shown = shortened(name) or named(source)
        return _decode(_content(source, options), shown, options)


def encoded(source: ImageSource, options: ImageOptions = ImageOptions()) -> bytes:
    """The content of an image file, for a server that decodes it. It is not decoded here.

    A Pillow image and an array are encoded without loss.

    Args:
        source: As for `load_image`.
        options: Limits and options.

    Raises:
        ImageError: The file is missing, not a regular file, empty, or above a limit.
    """
    with errors_of(source):
        if isinstance(source, Image.Image | np.ndarray):
            picture = load_image(source, options)
            return b"P6 %d %d 255\n" % picture.size + picture.tobytes()  # PPM
        file = _content(source, options)
        _check_length(file, named(source), options)
        return file


def _content(source: str | os.PathLike[str] | bytes, options: ImageOptions) -> bytes:
    """The content of an image file.

    Raises:
        ImageError: It cannot be read.
    """
    if isinstance(source, bytes):
        return source
    if not isinstance(source, str | os.PathLike):
        raise ImageError(
            f"a {type(source).__name__} is no image: give a path, a URL, bytes, a Pillow image "
            "or a uint8 array"
        )
    if isinstance(source, Unreadable):
        raise source.error
    if source == STANDARD_INPUT:
        return of_standard_input(options.max_bytes)
    if isinstance(source, str) and is_object(source):
        from seresnext101_triton.client import objects

        return objects.fetch(source, options.max_bytes, options.download_s)
    if isinstance(source, str) and is_url(source):
        from seresnext101_triton.client.web import fetch

        return fetch(source, options.max_bytes, options.download_s)
    return of_file(source, options.max_bytes)


@contextmanager
def errors_of(source: ImageSource) -> Iterator[None]:
    """Turn any exception into an error of this image, so that other images are not affected.

    Raises:
        ImageError: An exception was raised. This exception is the error's `__cause__`.
    """
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(
            f"{named(source)} cannot be opened: {type(error).__name__}: {reason(error)}"
        ) from error


def named(source: ImageSource) -> str:
    """What errors call an image."""
    if isinstance(source, str) and source == STANDARD_INPUT:
        return "standard input"
    if isinstance(source, str | os.PathLike):
        return shortened(os.fsdecode(source))
    return f"{len(source)} bytes" if isinstance(source, bytes) else f"a {type(source).__name__}"


def _from_array(array: np.ndarray, options: ImageOptions) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(
            f"an array must be uint8 [height, width, 3], not {array.dtype} {list(array.shape)}"
        )
    _check_size((array.shape[1], array.shape[0]), "an array", options)
    return Image.fromarray(array)


def _from_pillow(image: Image.Image, options: ImageOptions) -> Image.Image:
    name = f"a Pillow image of mode {image.mode}"
    if 0 in image.size:
        raise ImageError(f"{name} is empty: {image.width}x{image.height} pixels")
    _check_size(image.size, name, options)
    return _finished(image, name, options, b"")


def _decode(content: bytes, name: str, options: ImageOptions) -> Image.Image:
    _check_length(content, name, options)
    headers.check(content, name)
    try:
        image = _opened(content)
        if image is None:
            found = "it is HEIC" if _is_heic(content) else f"it begins with {content[:8]!r}"
            raise ImageError(f"{name} is not an image that Pillow can read: {found}")
        _check_size(image.size, name, options)
        if isinstance(options.draft, int):
            image.draft("RGB", (options.draft, options.draft))
        return _finished(image, name, options, content)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is refused: {reason(error)}") from error
    except MemoryError as error:
        raise ImageError(f"{name} needs more memory than there is") from error
    except Exception as error:  # Pillow's decoders raise many types for damaged files
        raise ImageError(f"{name} is damaged or truncated: {reason(error)}") from error


def _is_heic(content: bytes) -> bool:
    """Whether this is a photograph as iPhones save them (ISO/IEC 23008-12), whatever its name."""
    return content[4:8] == b"ftyp" and any(brand in content[8:64] for brand in (b"heic", b"heix"))


def _check_length(content: bytes, name: str, options: ImageOptions) -> None:
    if not content:
        raise ImageError(f"{name} is empty (0 bytes)")
    if len(content) > options.max_bytes:
        raise ImageError(f"{name} is refused: it has more than {options.max_bytes} bytes")


def _opened(content: bytes) -> ImageFile.ImageFile | None:
    """The image, of which only the header was read. None if no format accepts the content.

    `Image.open` is not used, because it would warn of sizes that this module refuses itself or that
    the user has allowed.
    """
    Image.preinit()
    for form in FORMATS:
        if form not in Image.OPEN:
            Image.init()
        if form not in Image.OPEN:  # this Pillow was built without the format
            continue
        factory, accepts = Image.OPEN[form]
        try:
            accepted = accepts is None or accepts(content[:16])
            if accepted and not isinstance(accepted, str):  # a text names a missing library
                return factory(BytesIO(content), "")
        except (
            SyntaxError,
            IndexError,
            TypeError,
            struct.error,
        ):  # another format, or a damaged image
            continue
    return None


def _check_size(size: tuple[int, int], name: str, options: ImageOptions) -> None:
    width, height = size
    if width * height > options.max_pixels:
        raise ImageError(
            f"{name} is refused: {width}x{height} is more than {options.max_pixels} pixels, which "
            "may be a decompression bomb"
        )
    if max(size) > _LONGEST_SIDE:
        raise ImageError(
            f"{name} is refused: {width}x{height} has a side of more than {_LONGEST_SIDE} pixels"
        )


def _finished(image: Image.Image, name: str, options: ImageOptions, content: bytes) -> Image.Image:
    """The image in RGB, with its pixels loaded, and turned as EXIF says if `orient` is set."""
    raw = raw_mode(image)
    turned_by_pillow = _tiff_orientation(image)
    image.load()
    _check_size(image.size, name, options)
    try:
        picture = to_rgb(image, raw, _low_bytes(image, raw, content))
    except ImageError as error:
        raise ImageError(f"{name} is refused: {error}") from error
    if turned_by_pillow is not None:
        return picture if options.orient else _turned(picture, _TURNED_BACK.get(turned_by_pillow))
    return _turned(picture, _TURNS.get(_orientation(image, content))) if options.orient else picture


def _turned(image: Image.Image, method: Image.Transpose | None) -> Image.Image:
    """Turn the pixels.

    The EXIF data stay unchanged. `ImageOps.exif_transpose` would write them again, which fails if a
    tag is broken.
    """
    return image if method is None else image.transpose(method)


def _tiff_orientation(image: Image.Image) -> int | None:
    """The orientation by which Pillow turns a TIFF while it loads the pixels.

    It is None for other formats, and for a TIFF whose pixels are loaded already.
    """
    if image.format != "TIFF" or not getattr(image, "tile", None):
        return None
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in _TURNS else 1


def _orientation(image: Image.Image, content: bytes) -> int:
    """The EXIF orientation of an image. It is 1 if the image has none, or an invalid one."""
    try:
        if not content:  # a Pillow image, whose orientation the caller may have changed
            value = image.getexif().get(ExifTags.Base.Orientation, 1)
            return value if isinstance(value, int) else 1
        exif = image.info.get("exif")
        if (
            exif is None and "Raw profile type exif" in image.info
        ):  # ImageMagick writes it so into a PNG
            exif = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
        if (found := headers.orientation_of_exif(exif or b"")) != 1:
            return found
        xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
        return headers.orientation_of_xmp(
            xmp if isinstance(xmp, bytes) else str(xmp).encode(errors="replace")
        )
    except Exception:  # noqa: BLE001  (a broken description says nothing)
        return 1


def _low_bytes(image: Image.Image, raw: str, content: bytes) -> Image.Image | None:
    """The lower 8 bits of a PNG with 16 bits for each channel and a transparent colour.

    Pillow decodes only the upper 8 bits. The result is None for other images.
    """
    if raw != "RGB;16B" or "transparency" not in image.info or image.format != "PNG" or not content:
        return None
    again = _opened(content)
    assert again is not None  # the same bytes were opened before
    again.tile = [(*tile[:3], "RGB;16L") for tile in again.tile]  # type: ignore[misc]  # plain before Pillow 11
    again.load()
    return again
