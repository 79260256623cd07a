"""Pictures that cannot be read end in one line that names the file and the cause."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from seresnext101_triton.client.errors import ImageError
from seresnext101_triton.client.images import load_image, named, sample_photographs


@pytest.fixture
def jpeg() -> bytes:
    return sample_photographs()[0].read_bytes()


def test_a_truncated_jpeg(tmp_path, jpeg):
    path = tmp_path / "half.jpg"
    path.write_bytes(jpeg[: len(jpeg) // 2])
    with pytest.raises(ImageError, match=r"half\.jpg is damaged or truncated"):
        load_image(path)


def test_a_truncated_png(tmp_path):
    path = tmp_path / "half.png"
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImageError, match=r"half\.png is damaged or truncated"):
        load_image(path)


def test_a_file_that_is_no_image(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("not a picture")
    with pytest.raises(
        ImageError,
        match=r"notes\.jpg is not an image that Pillow can read: it begins with b'not a pi'",
    ):
        load_image(path)
    path.write_bytes(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(40))  # of a phone
    with pytest.raises(ImageError, match=r"that Pillow can read: it is HEIC$"):
        load_image(path)


def test_an_empty_file(tmp_path):
    path = tmp_path / "empty.jpg"
    path.touch()
    with pytest.raises(ImageError, match=r"empty\.jpg is empty \(0 bytes\)"):
        load_image(path)


def test_a_folder(tmp_path):
    with pytest.raises(ImageError, match=r"is a folder: name the images in it"):
        load_image(tmp_path)


def test_a_missing_file(tmp_path):
    with pytest.raises(ImageError, match="does not exist"):
        load_image(tmp_path / "nowhere.jpg")


def test_a_decompression_bomb(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(ImageError, match="decompression bomb"):
        load_image(path)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_an_array_of_the_wrong_kind(array):
    with pytest.raises(ImageError, match="must be uint8"):
        load_image(array)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("-", "standard input"),
        ("a/b.jpg", "a/b.jpg"),
        (b"abc", "3 bytes"),
        (np.zeros((1, 1, 3), np.uint8), "a ndarray"),
    ],
)
def test_what_errors_call_an_image(source, name):
    assert named(source) == name


def test_all_sources_of_one_picture_are_equal(jpeg):
    path = sample_photographs()[0]
    expected = np.asarray(load_image(path))
    for source in (str(path), jpeg, Image.open(path), expected):
        np.testing.assert_array_equal(np.asarray(load_image(source)), expected)
