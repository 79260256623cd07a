"""Images that are hard to open: each opens right or raises a one-line error, in bounded memory."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from seresnext101_triton.client import headers, resampling
from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.errors import ImageError, OutputError
from seresnext101_triton.client.gallery import draw
from seresnext101_triton.client.images import ImageOptions, load_image, sample_photographs
from tests.export.test_repository import mounted

ORIENTATION = 0x0112


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png(
    width: int,
    height: int,
    depth: int,
    colour: int,
    rows: bytes | None = None,
    extra: dict[bytes, bytes] | None = None,
) -> bytes:
    """A PNG written by hand: `rows` as they are before filtering and compression."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0))
    if rows is None:
        return (
            b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        )
    stride = len(rows) // height
    filtered = b"".join(b"\0" + rows[row * stride : (row + 1) * stride] for row in range(height))
    chunks = b"".join(chunk(kind, body) for kind, body in (extra or {}).items())
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunks
        + chunk(b"IDAT", zlib.compress(filtered))
        + chunk(b"IEND", b"")
    )


def exif(orientation: bytes, *entries: bytes, values: bytes = b"") -> bytes:
    """An EXIF block of big-endian entries, orientation first; `values` follow the entries."""
    tags = (orientation, *entries)
    return (
        b"Exif\0\0MM\0*\0\0\0\x08"
        + struct.pack(">H", len(tags))
        + b"".join(tags)
        + b"\0\0\0\0"
        + values
    )


def short(tag: int, value: int, kind: int = 3, count: int = 1) -> bytes:
    return struct.pack(">HHLHH", tag, kind, count, value, 0)


# A resolution of -1/0, which Pillow cannot write again.
BROKEN_RESOLUTION = (struct.pack(">HHLL", 0x011A, 5, 1, 38), struct.pack(">lL", -1, 0))
ARROW = np.zeros((4, 6, 3), np.uint8)
ARROW[0, :3], ARROW[1, 0] = 255, (255, 0, 0)  # looks different from all eight sides
SIDES = {
    1: ARROW,
    2: ARROW[:, ::-1],
    3: ARROW[::-1, ::-1],
    4: ARROW[::-1],
    5: ARROW.transpose(1, 0, 2),
    6: np.rot90(ARROW, -1),
    7: ARROW[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(ARROW),
}


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
@pytest.mark.parametrize("orientation", SIDES)
def test_a_broken_resolution_does_not_hinder_turning(form, orientation):
    entry, value = BROKEN_RESOLUTION
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    block = exif(short(ORIENTATION, orientation), entry, values=value)
    file = encoded(Image.fromarray(ARROW), form, exif=block, **options)
    np.testing.assert_array_equal(np.asarray(load_image(file)), SIDES[orientation])
    np.testing.assert_array_equal(np.asarray(load_image(file, ImageOptions(orient=False))), ARROW)


@pytest.mark.parametrize("orientation", SIDES)
def test_jpegs_and_pillow_images_are_turned_the_same_way(orientation):
    entry, value = BROKEN_RESOLUTION
    picture = Image.fromarray(ARROW.repeat(16, 0).repeat(16, 1))
    file = encoded(
        picture, "JPEG", quality=95, exif=exif(short(ORIENTATION, orientation), entry, values=value)
    )
    expected = SIDES[orientation].repeat(16, 0).repeat(16, 1)
    for source in (file, Image.open(io.BytesIO(file))):
        turned = np.asarray(load_image(source)).astype(int)
        assert turned.shape == expected.shape
        assert np.abs(turned - expected).mean() < 10
    assert load_image(file, ImageOptions(orient=False)).size == picture.size


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", SIDES)
def test_tiffs_are_turned_by_their_tag(orientation, compression):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[ORIENTATION] = orientation
    file = encoded(Image.fromarray(ARROW), "TIFF", tiffinfo=tags, compression=compression)
    np.testing.assert_array_equal(np.asarray(load_image(file)), SIDES[orientation])
    np.testing.assert_array_equal(np.asarray(load_image(file, ImageOptions(orient=False))), ARROW)


@pytest.mark.parametrize(
    "entry",
    [
        short(ORIENTATION, 0),
        short(ORIENTATION, 9),
        short(ORIENTATION, 6, count=2),
        struct.pack(">HHL4s", ORIENTATION, 2, 2, b"6\0\0\0"),
        struct.pack(">HHLL", ORIENTATION, 5, 1, 8),
        struct.pack(">HHLf", ORIENTATION, 11, 1, 6.0),
        struct.pack(">HHLL", ORIENTATION, 99, 1, 6),
    ],
    ids=["0", "9", "two values", "text", "rational", "float", "unknown type"],
)
def test_an_orientation_that_does_not_exist_leaves_a_picture_as_it_lies(entry):
    file = encoded(Image.fromarray(ARROW), "PNG", exif=exif(entry))
    np.testing.assert_array_equal(np.asarray(load_image(file)), ARROW)


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0",
        b"Exif\0\0MM",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"nonsense",
        exif(short(ORIENTATION, 6))[:-14],
    ],
)
def test_broken_exif_leaves_a_picture_as_it_lies(block):
    np.testing.assert_array_equal(
        np.asarray(load_image(encoded(Image.fromarray(ARROW), "PNG", exif=block))), ARROW
    )


def test_an_orientation_of_type_long_and_one_in_xmp_are_followed():
    long = exif(struct.pack(">HHLL", ORIENTATION, 4, 1, 6))
    np.testing.assert_array_equal(
        np.asarray(load_image(encoded(Image.fromarray(ARROW), "PNG", exif=long))), SIDES[6]
    )
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    file = encoded(Image.fromarray(ARROW), "WEBP", lossless=True, exact=True, xmp=xmp)
    np.testing.assert_array_equal(np.asarray(load_image(file)), SIDES[6])


# Depth

RAMP16 = np.linspace(0, 65535, 32).astype(np.uint16).reshape(4, 8)
HIGH = (RAMP16 >> 8).astype(np.uint8)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, :, None], 3, 2)


def same(file: object, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(np.asarray(load_image(file)), expected)  # type: ignore[arg-type]


def test_16_bits_are_scaled_by_their_depth():
    same(png(8, 4, 16, 0, RAMP16.astype(">u2").tobytes()), grey(HIGH))
    dark = (RAMP16 >> 8).astype(np.uint16)  # its largest value is 255
    same(png(8, 4, 16, 0, dark.astype(">u2").tobytes()), grey(np.zeros((4, 8), np.uint8)))
    same(Image.fromarray(RAMP16), grey(HIGH))
    same(encoded(Image.fromarray(RAMP16), "TIFF"), grey(HIGH))
    same(encoded(Image.fromarray(RAMP16), "TIFF", compression="tiff_lzw"), grey(HIGH))
    same(b"P5 8 4 65535\n" + RAMP16.astype(">u2").tobytes(), grey(HIGH))


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bits_of_colour_and_alpha(colour, channels):
    samples = np.stack([RAMP16, RAMP16[::-1], RAMP16[:, ::-1], RAMP16], 2)[:, :, :channels].copy()
    if channels in (2, 4):
        samples[:, :, -1] = 65535  # opaque
    expected = (
        (samples >> 8)
        .astype(np.uint8)[:, :, : 3 if channels > 2 else 1]
        .repeat(1 if channels > 2 else 3, 2)
    )
    same(png(8, 4, 16, colour, samples.astype(">u2").tobytes()), expected)


def test_16_bit_grey_with_a_transparent_value_is_as_without_it_over_white():
    expected = grey(HIGH)
    key = RAMP16[1, 3]
    expected[key == RAMP16] = 255
    file = png(
        8, 4, 16, 0, RAMP16.astype(">u2").tobytes(), {b"tRNS": struct.pack(">H", RAMP16[1, 3])}
    )
    same(file, expected)


def test_16_bit_colour_with_a_transparent_one_is_compared_in_16_bits():
    samples = np.stack([RAMP16, RAMP16, RAMP16], 2)
    # The three colours differ in the lower bits only.
    samples[0, 0], samples[0, 1], samples[0, 2] = (11, 20, 31), (11, 20, 30), (267, 20, 31)
    expected = (samples >> 8).astype(np.uint8)
    expected[0, 0] = 255
    same(
        png(
            8, 4, 16, 2, samples.astype(">u2").tobytes(), {b"tRNS": struct.pack(">HHH", 11, 20, 31)}
        ),
        expected,
    )


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_grey_of_few_bits(depth):
    most = 2**depth - 1
    values = np.arange(8, dtype=np.uint8)[None].repeat(4, 0) & most
    bits = np.unpackbits(values[:, :, None], axis=2)[:, :, 8 - depth :].reshape(4, -1)
    expected = grey((values * (255 // most)).astype(np.uint8))
    expected[values == 1] = 255
    expected[values == 0] = 0
    same(
        png(8, 4, depth, 0, np.packbits(bits, axis=1).tobytes(), {b"tRNS": struct.pack(">H", 1)}),
        expected,
    )


def test_transparent_colours_and_palettes_are_over_white():
    colours = np.asarray(Image.fromarray(ARROW))
    expected = colours.copy()
    expected[1, 0] = 255
    same(encoded(Image.fromarray(colours), "PNG", transparency=(255, 0, 0)), expected)
    palette = Image.fromarray(np.arange(4, dtype=np.uint8)[None]).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    same(
        encoded(palette, "PNG", transparency=1),
        np.array([[[10, 20, 30], [255, 255, 255], [70, 80, 90], [100, 110, 120]]], np.uint8),
    )
    same(
        encoded(palette, "PNG", transparency=b"\0\xff\0\xff"),
        np.array([[[255] * 3, [40, 50, 60], [255] * 3, [100, 110, 120]]], np.uint8),
    )
    palette.putpalette([10, 20, 30, 0, 40, 50, 60, 255], "RGBA")
    same(palette.crop((0, 0, 2, 1)), np.array([[[255] * 3, [40, 50, 60]]], np.uint8))
    half = Image.fromarray(np.array([[[100, 0]]], np.uint8), "LA").convert("La")
    same(half, np.array([[[255] * 3]], np.uint8))


def test_an_image_that_its_caller_converted_is_taken_as_it_is():
    keyed = Image.open(
        io.BytesIO(encoded(Image.fromarray(ARROW), "PNG", transparency=(0, 0, 0)))
    ).convert("RGB")
    same(keyed, ARROW)


def tiff(values: np.ndarray, kind: int, photometric: int = 1, order: str = "<") -> bytes:
    """A grey TIFF of one strip, written by hand. `kind`: 1 unsigned, 2 signed, 3 float."""
    body = values.astype(values.dtype.newbyteorder(order)).tobytes()
    bits = values.dtype.itemsize * 8
    height, width = values.shape
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(body)),
        (339, kind),
    ]
    entries = b"".join(struct.pack(f"{order}HHLL", tag, 4, 1, value) for tag, value in tags)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return (
        mark
        + struct.pack(f"{order}L", 8 + len(body))
        + body
        + struct.pack(f"{order}H", len(tags))
        + entries
        + b"\0\0\0\0"
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiffs_of_every_depth(order):
    ramp = RAMP16.astype(np.int64)
    same(tiff(RAMP16, 1, order=order), grey(HIGH))
    same(tiff((ramp >> 1).astype(np.int16), 2, order=order), grey(HIGH))
    same(tiff((ramp << 15).astype(np.int32), 2, order=order), grey(HIGH))
    if order == "<":  # Pillow reads no others
        same(tiff((ramp << 16).astype(np.uint32), 1), grey(HIGH))
        same(tiff(RAMP16, 1, photometric=0), grey(255 - HIGH))
    floats = (ramp / 65535).astype(np.float32)
    same(tiff(floats, 3, order=order), grey(np.rint(floats * np.float32(255)).astype(np.uint8)))
    same(
        tiff(floats * np.float32(255), 3, order=order),
        grey(np.rint(floats * np.float32(255)).astype(np.uint8)),
    )
    over_one = np.array([[0, 1.125, 2.75]], np.float32)
    same(tiff(over_one, 3, order=order), grey(np.array([[0, 1, 3]], np.uint8)))
    same(
        tiff(floats, 3, photometric=0, order=order),
        grey(255 - np.rint(floats * np.float32(255)).astype(np.uint8)),
    )


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (np.array([[-0.5, 1]], np.float32), 3, "reach from -0.5 to 1, and only"),
        (np.array([[-0.001, 1]], np.float32), 3, "reach from -0.001 to 1"),
        (np.array([[0, 4000]], np.float32), 3, "reach from 0 to 4000"),
        (np.array([[0, 255.5]], np.float32), 3, "reach from 0 to 255.5"),
        (np.array([[0, np.nan]], np.float32), 3, "not finite"),
        (np.array([[0, np.inf]], np.float32), 3, "not finite"),
        (np.array([[-1, 1]], np.int16), 2, "negative numbers .down to -1."),
        (np.array([[-1, 1]], np.int32), 2, "negative numbers"),
    ],
)
def test_numbers_whose_meaning_is_not_known_are_refused(values, kind, message):
    with pytest.raises(ImageError, match=message):
        load_image(tiff(values, kind))


def test_a_deep_pillow_image_that_does_not_say_how_deep():
    with pytest.raises(ImageError, match="mode I does not say how deep"):
        load_image(Image.new("I", (4, 4)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB", "RGBX"])
def test_other_modes_are_converted(mode):
    picture = Image.new("RGB", (4, 4), "white").convert(mode)
    assert np.asarray(load_image(picture)).min() >= 254


def test_cmyk_of_adobe_is_not_inverted():
    assert (
        np.asarray(load_image(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"))).min() > 250
    )
    assert (
        np.asarray(load_image(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "TIFF"))).min() > 250
    )


# Size


BOMBS = {
    "one column": png(1, 80_000_000, 8, 2),
    "all": png(65535, 65535, 8, 2),
    "the largest": png(2**31 - 1, 2**31 - 1, 16, 6),
    "bmp": b"BM"
    + struct.pack("<LHHLLllHHLLllLL", 54, 0, 0, 54, 40, 65535, 65535, 1, 24, 0, 0, 0, 0, 0, 0),
    "gif": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08\0\0;",
    "ppm": b"P6 65535 65535 255\n",
    "webp": b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff",
    "an icon": b"\0\0\1\0\1\0\0\0\0\0\1\0\x20\0\x30\0\0\0\x16\0\0\0" + png(20000, 20000, 8, 2),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_headers_that_claim_too_much_are_refused_without_a_warning(bomb):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(ImageError) as error:
            load_image(BOMBS[bomb])
    assert "\n" not in str(error.value)
    assert bomb == "gif" or not seen  # Pillow's reader of GIFs warns by itself


def tags(count: int, kind: int, values: int, at: int) -> bytes:
    """A TIFF that claims `values` values at `at`, in `count` tags; that at 273 are its strips."""
    fixed = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1)]
    entries = [struct.pack("<HHLL", tag, 4, 1, value) for tag, value in fixed]
    entries += [struct.pack("<HHLL", 273 + number, kind, values, at) for number in range(count)]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + b"\0\0\0\0"


SMALL = encoded(Image.new("RGB", (8, 8)), "JPEG")
# Every tag refers to the same half megabyte.
MANY_TAGS = tags(3000, 1, 1 << 19, 0) + bytes(1 << 20)
PROGRESSIVE = encoded(Image.effect_noise((32, 32), 90), "JPEG", progressive=True)
LAST_SCAN = PROGRESSIVE[PROGRESSIVE.rfind(b"\xff\xda") : -2]
SCANS = PROGRESSIVE[:-2] + LAST_SCAN * 300 + b"\xff\xd9"
METADATA = {
    "scans": (SCANS, "more than 200 scans"),
    "strips": (tags(1, 4, 1 << 20, 100) + bytes(4 << 20), "tag 273 has 1048576 values"),
    "tags that share bytes": (MANY_TAGS, "claim more bytes than there are"),
    "exif": (
        b"".join(
            [
                SMALL[:2],
                *[
                    b"\xff\xe1\xff\xffExif\0\0" + MANY_TAGS[n : n + 65527]
                    for n in range(0, 655270, 65527)
                ],
                SMALL[2:],
            ]
        ),
        "claim more",
    ),
    "segments": (SMALL[:2] + b"\xff\xe5\0\2" * 10_000 + SMALL[2:], "more than 4096 segments"),
    "chunks": (png(1, 1, 8, 0, b"\0")[:33] + b"\0\0\0\0aBcD\0\0\0\0" * 10_000, "chunks"),
    "a profile": (
        png(1, 1, 8, 0, b"\0", {b"iCCP": b"x\0\0" + zlib.compress(bytes(200 << 20))}),
        "too large",
    ),
    "text": (
        png(1, 1, 8, 0, b"\0", {b"zTXt": b"x\0\0" + zlib.compress(bytes(200 << 20))}),
        "too large",
    ),
}


@pytest.mark.parametrize("kind", METADATA)
def test_metadata_that_grows_is_refused(kind):
    content, message = METADATA[kind]
    with pytest.raises(ImageError, match=message):
        load_image(content)


def pointing(folder: int, *entries: bytes) -> bytes:
    """A TIFF with one tag, of the number `folder`, that points to a directory of `entries`."""
    first = struct.pack("<HHHLL", 1, folder, 4, 1, 26) + b"\0\0\0\0"
    return (
        b"II*\0\x08\0\0\0" + first + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    )


def entry(number: int, kind: int = 3, count: int = 1, value: int = 0) -> bytes:
    return struct.pack("<HHLL", number, kind, count, value)


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    body = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content
        for marker, content in segments
    )
    return SMALL[:2] + body + SMALL[2:]


SIMPLE_PNG = png(1, 1, 8, 0, b"\0")
OTHERS = SIMPLE_PNG.count(b"IHDR") + SIMPLE_PNG.count(b"IEND")
BEFORE_PIXELS = SMALL[: SMALL.index(b"\xff\xda")].count(b"\xff") - 1  # without the first marker
LIMITS: dict[
    str, Callable[[int], bytes]
] = {  # what is just within a limit, and what is just beyond it
    "tags": lambda more: tags(4096 - 5 + more, 3, 1, 0),
    "values": lambda more: tags(1, 3, (1 << 17) + more, 0) + bytes(1 << 19),
    "bytes": lambda more: (
        tags(2, 1, (1 << 19) + 4 * 4096 - 10 + more, 0) + bytes((1 << 20) - len(tags(2, 1, 1, 0)))
    ),
    "scans": lambda more: (
        PROGRESSIVE[:-2] + LAST_SCAN * (200 - PROGRESSIVE.count(b"\xff\xda") + more) + b"\xff\xd9"
    ),
    "segments": lambda more: jpeg(*[(0xE5, b"")] * (4095 - BEFORE_PIXELS + more)),
    "other chunks": lambda more: (
        SIMPLE_PNG[:33] + b"\0\0\0\0aBcD\0\0\0\0" * (4096 - OTHERS + more) + SIMPLE_PNG[33:]
    ),
    "chunks": lambda more: (
        SIMPLE_PNG[:33] + b"\0\0\0\0IDAT\0\0\0\0" * ((1 << 17) - 3 + more) + SIMPLE_PNG[33:]
    ),
    "tags that Exif points to": lambda more: pointing(0x8769, *[entry(1)] * (4096 + more)),
    "tags that GPS points to": lambda more: pointing(0x8825, *[entry(1)] * (4096 + more)),
    "other tags": lambda more: pointing(0xA005, *[entry(1)] * (4096 + more)),
    "tags of an Exif segment": lambda more: jpeg(
        (0xE1, b"Exif\0\0" + pointing(0x8769, *[entry(1)] * (4096 + more)))
    ),
    "tags of a preview": lambda more: jpeg((0xE2, b"MPF\0" + tags(4096 - 5 + more, 3, 1, 0))),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_what_headers_may_hold_is_limited_exactly(limit):
    headers.check(LIMITS[limit](0), "a.jpg")
    with pytest.raises(ImageError, match=r"^a\.jpg is refused: "):
        headers.check(LIMITS[limit](1), "a.jpg")


@pytest.mark.parametrize(
    "lead", [b"\xff", b"\xff\xff\xff", b"\xff\x01", b"\xff\0", b"\xff\xd0\xff\xd8"]
)
def test_markers_without_a_segment_hide_nothing(lead):
    headers.check(SMALL[:2] + lead + SMALL[2:], "a.jpg")
    bomb = LIMITS["tags of an Exif segment"](1)
    with pytest.raises(ImageError, match=r"^a\.jpg is refused: its tags claim"):
        headers.check(bomb[:2] + lead + bomb[2:], "a.jpg")


def test_the_frames_of_an_animated_png_are_pixels():
    frames = SIMPLE_PNG[:33] + b"\0\0\0\0fdAT\0\0\0\0" * 5000 + SIMPLE_PNG[33:]
    headers.check(frames, "a.png")
    with pytest.raises(ImageError, match=r"a\.png is refused: it has more than 4\d\d\d chunks"):
        headers.check(frames.replace(b"fdAT", b"fcTL"), "a.png")


PILLOWS = TiffImagePlugin.ImageFileDirectory_v2._load_dispatch  # bytes of a value, by its type


@pytest.mark.parametrize("kind", range(1, 20))
def test_values_are_counted_in_the_bytes_that_pillow_reads_for_them(kind):
    """Tags of half a million bytes each: all together they may be little more than the file."""
    size = PILLOWS[kind][0] if kind in PILLOWS else 8 if kind in (17, 18) else 0

    def claiming(count: int) -> bytes:
        return tags(count, kind, 1 << 16, 0) + bytes((1 << 20) - len(tags(count, 1, 1, 0)))

    headers.check(claiming(16 // size if size else 1000), "a.tif")
    if size:
        with pytest.raises(ImageError, match="its tags claim more bytes than there are"):
            headers.check(claiming(16 // size + 1), "a.tif")


def test_a_film_behind_a_progressive_picture_is_no_bomb():
    """Telephones put one there, and in its bytes is everything."""
    assert load_image(PROGRESSIVE + b"\xff\xda" * 1000).size == (32, 32)
    assert load_image(PROGRESSIVE[:-2] + LAST_SCAN * 100 + b"\xff\xd9").size == (32, 32)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(1 << 42)  # takes no place on the disk
    with pytest.raises(
        ImageError, match=r"large\.jpg is refused: it has more than 268435456 bytes"
    ):
        load_image(tmp_path / "large.jpg")


def test_what_is_handed_over_is_limited_too():
    limit = ImageOptions(max_pixels=100)
    for source in (
        Image.new("L", (101, 1)),
        np.zeros((101, 1, 3), np.uint8),
        encoded(Image.new("L", (101, 1)), "PNG"),
    ):
        with pytest.raises(ImageError, match="is more than 100 pixels"):
            load_image(source, limit)
    assert load_image(Image.new("L", (100, 1)), limit).size == (100, 1)
    with pytest.raises(ImageError, match="is empty"):
        load_image(Image.new("L", (0, 5)))


def test_nothing_global_of_pillows_or_pythons_is_changed():
    program = """
import warnings, numpy
from PIL import Image, ImageFile
state = lambda: (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:])
before = state()
from seresnext101_triton.client.images import load_image, sample_photographs
load_image(sample_photographs()[0])
assert before == state()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("shape", ["20000x1", "1x20000", "1000000x1", "1x1000000", "3x400000"])
def test_memory_is_bounded_by_a_pictures_own_pixels(shape, tmp_path):
    """A resize of the whole 20000x1 image takes 5 GB.

    The process may use 1 GB more than Python and the libraries already use, and this is enough for
    all shapes.
    """
    width, height = map(int, shape.split("x"))
    path = tmp_path / "long.png"
    Image.new("RGB", (width, height), (10, 20, 30)).save(path)
    program = f"""
import resource
from seresnext101_triton.client.images import load_image, sample_photographs
from seresnext101_triton.client.contract import Preprocessing
Preprocessing()(load_image(sample_photographs()[0]))
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30),) * 2)
pixels = Preprocessing().pixels(load_image({str(path)!r}))
assert (pixels == (10, 20, 30)).all() and pixels.shape == (224, 224, 3)
"""
    subprocess.run(
        [sys.executable, "-c", program], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_part_of_a_resized_picture_is_pillows_bit_for_bit(interpolation):
    generator = np.random.default_rng(11)
    for number in range(60):
        shorter = int(generator.integers(1, 60))
        longer = int(shorter * generator.uniform(1, 40))
        image = Image.fromarray(generator.integers(0, 256, (longer, shorter, 3), dtype=np.uint8))
        image = image.transpose(Image.Transpose.ROTATE_90) if number % 2 else image
        size = (
            int(image.width * generator.uniform(1, 5)),
            int(image.height * generator.uniform(1, 5)),
        )
        box = (size[0] // 3, size[1] // 3, size[0] // 3 + max(1, size[0] // 5), size[1])
        whole = image.resize(size, getattr(Image.Resampling, interpolation.upper())).crop(box)
        part = resampling.window(image, size, box, interpolation)
        np.testing.assert_array_equal(
            np.asarray(part), np.asarray(whole), err_msg=f"{image.size} to {size}, {box}"
        )


def test_long_pictures_are_prepared_part_by_part(monkeypatch):
    asked = []
    monkeypatch.setattr(
        resampling,
        "window",
        lambda *arguments: asked.append(arguments[0].size) or Image.new("RGB", (224, 224)),
    )
    for size in ((65, 1), (256, 256), (2000, 9), (20_000, 1), (1, 20_000), (80_000, 300)):
        Preprocessing()(Image.new("RGB", size))
    assert asked == [(20_000, 1), (1, 20_000)]


# Where a picture is


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.jpg"))
        cases = {
            tmp_path / "pipe.jpg": "pipe.jpg is not a regular file",
            Path("/dev/zero"): "/dev/zero is not a regular file",
            tmp_path / "socket.jpg": "socket.jpg cannot be read",
            tmp_path / "loop.jpg": "loop.jpg cannot be read: Too many levels of symbolic links",
            "a\0b.jpg": r"a\\x00b.jpg cannot be read",
            "\ud800.jpg": r"\\ud800.jpg cannot be read",
            "data:image/png;base64,AAAA": "only addresses with http, https, s3, gs and az are",
            "ftp://nowhere/x.jpg": "only addresses with http, https, s3, gs and az are fetched",
            "x" * 5000: "xx cannot be read: File name too long",
            tmp_path / "a\nb\x1b[2J.jpg": r"a\\nb\\x1b\[2J.jpg does not exist",
        }
        for source, message in cases.items():
            with pytest.raises(ImageError, match=message) as error:
                load_image(source)
            assert str(error.value).isprintable()
            assert len(str(error.value)) < 2000


def test_a_name_that_is_not_utf_8(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write(encoded(Image.fromarray(ARROW), "PNG"))
    same(os.fsdecode(name), ARROW)
    with open(name, "wb") as file:
        file.write(b"nothing")
    with pytest.raises(ImageError, match=r"caf\\udce9\.png is not an image"):
        load_image(os.fsdecode(name))


@pytest.mark.parametrize("source", [None, 3, ["a"], object(), bytearray(b"x")])
def test_what_is_no_image_at_all(source):
    with pytest.raises(ImageError, match="is no image: give a path"):
        load_image(source)


def test_the_original_exception_is_kept(monkeypatch):
    broken = png(8, 4, 16, 0, RAMP16.astype(">u2").tobytes())[:-30]
    with pytest.raises(ImageError) as error:
        load_image(broken)
    assert isinstance(error.value.__cause__, Exception)
    monkeypatch.setattr("seresnext101_triton.client.images.to_rgb", lambda *_: 1 / 0)
    for source in (
        broken[:0] + png(8, 4, 16, 0, RAMP16.astype(">u2").tobytes()),
        Image.new("L", (1, 1)),
    ):
        with pytest.raises(ImageError, match="division by zero") as error:
            load_image(source)
        assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_standard_input_is_bounded_and_no_terminal():
    program = """
import resource
from seresnext101_triton.client.images import *
resource.setrlimit(resource.RLIMIT_AS, (4 << 30,) * 2)
try:
    print(load_image("-", ImageOptions(max_bytes=1000)).size)
except Exception as error:
    print(type(error).__name__, error)
"""
    ask = [sys.executable, "-c", program]
    with open("/dev/zero", "rb") as endless:
        assert (
            b"more than 1000 bytes"
            in subprocess.run(ask, stdin=endless, capture_output=True).stdout
        )
    small = encoded(Image.fromarray(ARROW), "PNG")
    assert subprocess.run(ask, input=small, capture_output=True).stdout == b"(6, 4)\n"
    ours, theirs = os.openpty()
    assert (
        b"ImageError standard input is a terminal"
        in subprocess.run(ask, stdin=theirs, capture_output=True).stdout
    )
    os.close(ours), os.close(theirs)
    closed = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" <&-', sys.executable, program], capture_output=True
    )
    assert b"ImageError standard input is closed" in closed.stdout


def test_a_gallery_of_pictures_that_changed_meanwhile(tmp_path):
    from seresnext101_triton.client.decoding import Prediction

    gone, thin = tmp_path / "gone\n.jpg", tmp_path / "thin.png"
    Image.new("RGB", (2000, 1)).save(thin)
    odd = [Prediction(0, "a:b\x1b\n\ud800 ひ", 0.5)]
    draw(
        tmp_path / "all.png",
        [(gone, odd), (thin, odd), (sample_photographs()[0], odd), (Image.new("L", (1, 1)), odd)],
        "title\n2",
    )
    assert Image.open(tmp_path / "all.png").width > 500
    with pytest.raises(OutputError, match="draw fewer"):
        draw(tmp_path / "many.png", [(thin, odd)] * 3000, "t")
    with pytest.raises(OutputError, match="cannot be written"):
        draw(tmp_path / "all.nothing", [(thin, odd)], "t")


def test_a_gallery_on_a_full_disk_leaves_the_earlier_one(tmp_path):
    path = tmp_path / "disk" / "all.png"
    with mounted(path.parent, "size=8k"):
        draw(path, [(Image.new("L", (1, 1)), [])], "t")
        before = path.read_bytes()
        entries: list = [(each, []) for each in sample_photographs()]
        with pytest.raises(OutputError, match=r"all.png cannot be written: No space left on dev"):
            draw(path, entries, "t")
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]
