"""Images of arbitrary bytes: each gives an RGB image or one of the client's errors.

The memory is bounded by the limits on what may be opened.
"""

from __future__ import annotations

import io
import resource
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.errors import ImageError
from seresnext101_triton.client.headers import orientation_of_exif, orientation_of_xmp
from seresnext101_triton.client.images import ImageOptions, load_image
from seresnext101_triton.client.text import printable, shortened

LIMITS = ImageOptions(max_pixels=1_000_000, max_bytes=1 << 20)
# Bytes of resident memory, over all examples. An image at the limits takes about 20 MB, and the
# blocks that Pillow keeps take about 130 MB.
MOST_GROWTH = 600 << 20
MAGIC = [
    *(
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"II*\0",
        b"MM\0*",
        b"II+\0\x08\0\0\0",
        b"GIF89a",
        b"BM",
        b"P5 ",
        b"P6 ",
    ),
    *(
        b"RIFF\x20\0\0\0WEBP",
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"\xff\x4f\xff\x51",
        b"\0\0\0\x20ftypavif",
        b"qoif",
        b"8BPS\0\1",
    ),
    *(b"\x0a\5\1\x08", b"\1\xda\0\1", b"DDS \x7c\0\0\0", b"\x59\xa6\x6a\x95"),
]
SETTINGS = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def _files() -> list[bytes]:
    """Real pictures of each format and mode, 24x16, with metadata."""
    pixels = np.random.default_rng(3).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    colour = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "maker", 72.0
    deep = Image.fromarray(pixels[:, :, 0].astype(np.uint16) << 8)
    kinds: list[tuple[str, Image.Image, dict[str, object]]] = [
        ("PNG", colour, {"exif": exif}),
        ("PNG", colour, {"transparency": (1, 2, 3)}),
        ("PNG", colour.convert("P"), {"transparency": b"\0\x80\xff"}),
        ("PNG", deep, {}),
        ("JPEG", colour, {"exif": exif}),
        ("JPEG", colour, {"progressive": True}),
        ("JPEG", colour.convert("CMYK"), {}),
        ("TIFF", colour, {"exif": exif}),
        ("TIFF", colour, {"compression": "tiff_lzw"}),
        ("TIFF", colour, {"compression": "jpeg"}),
        ("TIFF", deep, {}),
        ("TIFF", colour.convert("F"), {}),
        ("TIFF", colour, {"big_tiff": True}),
        (
            "GIF",
            colour.convert("P"),
            {
                "save_all": True,
                "append_images": [colour.convert("P").rotate(90)],
                "transparency": 1,
            },
        ),
        ("WEBP", colour, {"exif": exif.tobytes()}),
        (
            "WEBP",
            colour.convert("RGBA"),
            {
                "lossless": True,
                "save_all": True,
                "append_images": [colour.rotate(90).convert("RGBA")],
            },
        ),
        ("BMP", colour, {}),
        ("BMP", colour.convert("P"), {}),
        ("PPM", colour, {}),
        ("JPEG2000", colour, {}),
        ("AVIF", colour, {"exif": exif.tobytes()}),
        ("TGA", colour, {"compression": "tga_rle"}),
        ("SGI", colour, {}),
        ("PCX", colour.convert("P"), {}),
        ("QOI", colour, {}),
        ("DDS", colour, {}),
        ("MPO", colour, {"save_all": True, "append_images": [colour]}),
    ]
    files = []
    for form, image, options in kinds:
        file = io.BytesIO()
        image.save(file, form, **options)
        files.append(file.getvalue())
    return files


FILES = _files()
EXTREMES = st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff"])
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8) | EXTREMES), max_size=4
)
TIFF_HEADS = st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"MM\0+\0\x08\0\0", b""])


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_GROWTH


def check(content: bytes, opening: ImageOptions = LIMITS) -> Image.Image | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what is broken
        try:
            image = load_image(content, opening)
        except ImageError as error:
            assert str(error).isprintable() and len(str(error)) < 2000
            return None
    assert image.mode == "RGB" and 0 < image.width * image.height <= opening.max_pixels
    assert Preprocessing(resize=32, crop=24)(image).shape == (3, 24, 24)
    return image


def test_the_files_themselves_are_pictures():
    for content in FILES:
        image = check(content)
        assert image is not None and sorted(image.size) == [16, 24]


@given(st.sampled_from(FILES), EDITS, st.floats(0, 1) | st.just(1.0), st.booleans())
@SETTINGS
def test_damaged_pictures(content, edits, kept, orient):
    damaged = bytearray(content)
    for where, what in edits:
        # More often near the beginning, where the headers are.
        at = int(where**3 * (len(damaged) - 1))
        damaged[at : at + len(what)] = what
    check(
        bytes(damaged[: int(len(damaged) * kept)]),
        ImageOptions(orient=orient, max_pixels=1_000_000, max_bytes=1 << 20),
    )


@given(st.sampled_from(MAGIC), st.binary(max_size=300))
@SETTINGS
def test_any_bytes_after_a_formats_own_first_ones(magic, rest):
    check(magic + rest)


@given(
    st.sampled_from([b"", b"Exif\0\0"]),
    st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"MM\0+\0\x08\0\0", b""]),
    st.binary(max_size=200),
)
@SETTINGS
def test_any_exif_is_an_orientation(prefix, head, rest):
    assert 1 <= orientation_of_exif(prefix + head + rest) <= 8
    assert 1 <= orientation_of_xmp(b"tiff:Orientation=" + rest) <= 8


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.sampled_from(["bilinear", "bicubic"]),
    st.integers(1, 300),
)
@settings(max_examples=40)
def test_any_shape_becomes_the_crop(width, height, interpolation, resize):
    contract = Preprocessing(resize=resize, crop=max(1, resize // 2), interpolation=interpolation)
    pixels = contract.pixels(Image.new("RGB", (width, height), (1, 2, 3)))
    assert pixels.shape == (contract.crop, contract.crop, 3) and (pixels == (1, 2, 3)).all()


@given(st.text(st.characters(exclude_categories=[])))
@SETTINGS
def test_any_name_can_be_shown(text):
    for shown in (printable(text), shortened(text * 50)):
        shown.encode()
        assert "\n" not in shown and "\x1b" not in shown and "\x9b" not in shown
    assert len(shortened(text * 5000)) < 15_000
