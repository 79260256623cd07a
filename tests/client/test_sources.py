"""From names to images."""

from __future__ import annotations

import http.server
import io
import sys
import threading

import numpy as np
import pytest
from PIL import Image, ImageOps

from seresnext101_triton.client.errors import ImageError
from seresnext101_triton.client.images import ImageOptions, load_image, sample_photographs
from seresnext101_triton.client.sources import Unreadable, expand, readable


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "deep/c.webp", "deep/er/d.tiff"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(folder, *arguments):
    return [path.removeprefix(f"{folder}/") for path in expand(arguments)]


def test_a_folder_stands_for_the_images_in_it(folder):
    assert names(folder, str(folder)) == ["a.PNG", "b.jpg", "deep/c.webp", "deep/er/d.tiff"]


def test_patterns_files_urls_and_standard_input(folder):
    assert names(folder, f"{folder}/*.*") == ["a.PNG", "b.jpg", "notes.txt"]
    assert names(folder, f"{folder}/**/*.webp") == ["deep/c.webp"]
    assert names(folder, f"{folder}/notes.txt", "-", "https://x.org/a.jpg") == [
        "notes.txt",
        "-",
        "https://x.org/a.jpg",
    ]


def test_nothing_there(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, reason in (
        (str(tmp_path / "empty"), r"empty holds no image: no files in it"),
        (f"{folder}/*.bmp", r"nothing matches .*\*.bmp"),
        ("", "a name is empty"),
    ):
        (found,) = expand([name])
        assert isinstance(found, Unreadable) and found == name
        with pytest.raises(ImageError, match=reason):
            list(readable(expand([name])))


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture
def picture() -> Image.Image:
    return load_image(sample_photographs()[0]).resize((60, 40))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_and_kind_of_picture_becomes_rgb(picture, format):
    modes = {
        "PNG": ("RGB", "L", "P", "RGBA", "LA", "1", "I;16"),
        "TIFF": ("RGB", "L", "CMYK", "I;16"),
        "JPEG": ("RGB", "L", "CMYK"),
    }
    for mode in modes.get(format, ("RGB",)):
        source = (
            picture.convert("L").convert("I").point(lambda value: value * 257).convert("I;16")
            if mode == "I;16"
            else picture.convert(mode)
        )
        image = load_image(encoded(source, format))
        assert (image.mode, image.size) == ("RGB", picture.size)
        reference = (
            picture.convert("L").convert("RGB")
            if mode in ("L", "LA", "I;16")
            else source.convert("RGB")
        )
        if format in ("PNG", "BMP", "TIFF") and mode != "1":
            assert (
                np.abs(np.asarray(image).astype(int) - np.asarray(reference).astype(int)).max() <= 1
            )


def test_transparency_is_laid_over_white():
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert load_image(encoded(half, "PNG")).getpixel((0, 0)) == (255, 127, 127)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert load_image(encoded(palette, "PNG", transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    grey = Image.new("LA", (4, 4), (0, 0))
    assert load_image(encoded(grey, "PNG")).getpixel((0, 0)) == (255, 255, 255)


def test_the_first_frame_of_an_animation(picture):
    frames = [picture, ImageOps.invert(picture)]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(
        np.asarray(load_image(moving)), np.asarray(load_image(encoded(picture, "GIF")))
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured_unless_told_otherwise(picture, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(picture, "PNG", exif=exif)
    turned = load_image(content)
    assert turned.size == (picture.size if orientation < 5 else picture.size[::-1])
    np.testing.assert_array_equal(
        np.asarray(turned), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    )
    np.testing.assert_array_equal(
        np.asarray(load_image(content, ImageOptions(orient=False))), np.asarray(picture)
    )


def test_limits(picture):
    content = encoded(picture, "PNG")
    with pytest.raises(ImageError, match=r"is refused: it has more than 100 bytes"):
        load_image(content, ImageOptions(max_bytes=100))
    with pytest.raises(ImageError, match=r"is refused: 60x40 is more than 2399 pixels"):
        load_image(content, ImageOptions(max_pixels=2399))
    assert load_image(content, ImageOptions(max_pixels=2400)).size == (60, 40)


def test_a_draft_keeps_what_the_network_needs():
    image = load_image(sample_photographs()[0]).resize((1600, 1200))
    content = encoded(image, "JPEG")
    assert load_image(content, ImageOptions(draft=256)).size == (400, 300)
    assert load_image(content, ImageOptions(draft=1000)).size == (1600, 1200)


def test_standard_input(picture, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(encoded(picture, "PNG"))))
    np.testing.assert_array_equal(np.asarray(load_image("-")), np.asarray(picture))
    with pytest.raises(ImageError, match="standard input is empty"):
        load_image("-")


def test_urls(picture, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    content = encoded(picture, "PNG")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/a.png" else 404)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{web.server_port}"
        np.testing.assert_array_equal(np.asarray(load_image(f"{url}/a.png")), np.asarray(picture))
        with pytest.raises(ImageError, match=r"/b.png cannot be fetched: 404"):
            load_image(f"{url}/b.png")
        with pytest.raises(ImageError, match="it has more than 10 bytes"):
            load_image(f"{url}/a.png", ImageOptions(max_bytes=10))
        web.shutdown()
    with pytest.raises(ImageError, match="cannot be fetched: .*refused"):
        load_image(f"{url}/a.png")
