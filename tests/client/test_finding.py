"""Finding images in folders: no file ends the search, and each file left out is reported."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seresnext101_triton.client.contract import OutputKind, Preprocessing
from seresnext101_triton.client.images import FORMATS, load_image
from seresnext101_triton.client.pipeline import Steps, StreamOptions, run
from seresnext101_triton.client.served import ServedModel
from seresnext101_triton.client.sources import SUFFIXES, LeftOut, Unreadable, expand


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root: Path, *names: str, left_out: LeftOut | None = None) -> list[str]:
    return [path.removeprefix(f"{root}/") for path in expand(names or [str(root)], left_out)]


def reasons(root: Path) -> dict[str, str]:
    return {
        path.removeprefix(f"{root}/"): str(path.error)
        for path in expand([str(root)])
        if isinstance(path, Unreadable)
    }


@contextmanager
def nobody():
    """Without root's right to read everything, where the tests run as root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_every_suffix_is_one_that_pillow_reads_and_the_common_ones_are_there():
    Image.init()
    known = {
        suffix
        for suffix, format in Image.registered_extensions().items()
        if format in Image.OPEN or format == "MPO"
    }
    assert known >= SUFFIXES
    assert {
        ".jpg",
        ".jfif",
        ".mpo",
        ".png",
        ".apng",
        ".webp",
        ".avif",
        ".tif",
        ".jp2",
        ".j2k",
        ".tga",
        ".qoi",
        ".psd",
    } <= SUFFIXES
    # Formats that Pillow opens or identifies and that do not hold photographs. When a new version
    # of Pillow adds a suffix, this test fails until the suffix is added here or to SUFFIXES.
    left = (
        ".blp .bufr .bw .cur .dcx .emf .eps .fit .fits .flc .fli .ftc .ftu .gbr .grib .h5 .hdf "
        ".icb .iim .im .mpeg .mpg .msp .pcd .pfm "
    )
    assert known - SUFFIXES <= set(
        (left + ".ps .pxr .rgb .rgba .vda .vst .wmf .pdf .ico .icns .xbm .xpm").split()
    )


def test_every_suffix_is_one_of_a_format_that_is_decoded():
    """A format that is left out, an icon for one, would count as a failed image in every folder."""
    Image.init()
    formats = Image.registered_extensions()
    # Pillow opens an MPO as a JPEG.
    assert {suffix for suffix in SUFFIXES if formats[suffix] not in (*FORMATS, "MPO")} == set()


def test_an_icon_in_a_folder_is_no_failed_image(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for name in ("favicon.ico", "app.icns", "b.xbm", "C.ICO"):
        (tmp_path / name).touch()
    left_out = LeftOut()
    assert found(tmp_path, left_out=left_out) == ["a.png"]
    assert left_out.files == {".ico": 2, ".icns": 1, ".xbm": 1}


def test_what_is_left_out_is_counted(tmp_path):
    touch(
        tmp_path,
        "a.JPG",
        "b.jfif",
        "c.mpo",
        "x/d.txt",
        "x/e.txt",
        "x/f",
        "g.HEIC",
        "h.db",
        ".hidden.jpg",
        ".git/i.jpg",
    )
    left_out = LeftOut()
    assert found(tmp_path, left_out=left_out) == ["a.JPG", "b.jfif", "c.mpo"]
    assert (
        str(left_out) == "5 files not named like a picture (2 .txt, 1 .db, 1 .heic, ...), 2 hidden"
    )
    assert (str(LeftOut()), left_out.files.total()) == ("", 5)


def test_suffixes_without_end_are_counted_in_bounded_memory():
    left_out = LeftOut()
    for number in range(3000):
        left_out.add(f"a.{number}")
    assert left_out.files.total() == 3000
    assert len(left_out.files) == 1001


def test_a_folder_that_may_not_be_read_is_its_own_error(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/2.jpg", "c/3.jpg")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:  # pytest's are private
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o111)
    (tmp_path / "b").chmod(0)
    try:
        with nobody():
            assert found(tmp_path) == ["a/1.jpg", "b", "c/3.jpg"]
            assert reasons(tmp_path) == {"b": f"{tmp_path}/b cannot be read: Permission denied"}
            (whole,) = expand([f"{tmp_path}/b"])
            assert isinstance(whole, Unreadable)
    finally:
        (tmp_path / "b").chmod(0o755)


def test_links_that_lead_nowhere_or_to_themselves_are_errors_of_their_own(tmp_path):
    touch(tmp_path, "a.jpg", "z.jpg")
    for name, target in {
        "self": "self",
        "self.jpg": "self.jpg",
        "ping": "pong",
        "pong": "ping",
        "gone.png": "nowhere",
        "disk": "/x/y",
    }.items():
        (tmp_path / name).symlink_to(target)
    assert found(tmp_path) == [
        "a.jpg",
        "disk",
        "gone.png",
        "ping",
        "pong",
        "self",
        "self.jpg",
        "z.jpg",
    ]
    loop, nowhere = "Too many levels of symbolic links", "No such file or directory"
    assert reasons(tmp_path) == {
        name: f"{tmp_path}/{name} is a link that cannot be followed: {reason}"
        for name, reason in {
            "disk": nowhere,
            "gone.png": nowhere,
            "ping": loop,
            "pong": loop,
            "self": loop,
            "self.jpg": loop,
        }.items()
    }


def test_a_link_to_a_folder_is_followed_and_none_is_walked_twice(tmp_path):
    """Links to a parent, between two folders, and twice to one folder: each image is found once.

    An image is reported under its own path where it has one inside the searched folder.
    """
    touch(tmp_path, "in/a/1.jpg", "in/b/2.jpg", "out/3.jpg", "out/c/4.jpg")
    links = {
        "in/up": "..",
        "in/here": ".",
        "in/a/b": "../b",
        "in/b/a": "../a",
        "in/out": "../out",
        "in/out2": "../out",
        "out/back": "../in",
    }
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    left_out = LeftOut()
    assert sorted(found(tmp_path / "in", left_out=left_out)) == [
        "a/1.jpg",
        "b/2.jpg",
        "out/3.jpg",
        "out/c/4.jpg",
    ]
    assert left_out.again >= 4
    assert "that a link leads to a second time" in str(left_out)


def test_links_between_all_folders_take_no_longer_than_the_folders(tmp_path):
    """By every way through them there would be 30 factorial."""
    for one in range(30):
        touch(tmp_path, f"{one}/{one}.jpg")
        for other in range(30):
            (tmp_path / str(one) / f"to{other}").symlink_to(f"../{other}")
    assert len(found(tmp_path)) == 30


def test_a_tree_deeper_than_pythons_recursion_and_than_a_path_may_be_long(tmp_path):
    """Folders below what a path can name are one error; all above are walked."""
    touch(tmp_path, "z.jpg")
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(2100):
            os.mkdir("d")
            os.chdir("d")
            os.close(os.open("1.jpg", os.O_CREAT))
        images = list(expand([str(tmp_path)]))
    finally:
        os.chdir(here)
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # shutil.rmtree recurses
    unreadable = [image for image in images if isinstance(image, Unreadable)]
    assert 1000 < len(images) < 2100
    assert [str(image.error)[-18:] for image in unreadable] == ["File name too long"]
    assert images[-1] is unreadable[0]


def test_a_folder_that_is_removed_on_the_way(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/2.jpg", "c/3.jpg")
    images = expand([str(tmp_path)])
    assert next(images).endswith("a/1.jpg")
    (tmp_path / "b" / "2.jpg").unlink()
    (tmp_path / "b").rmdir()
    missing, last = images
    assert (
        isinstance(missing, Unreadable)
        and str(missing.error) == f"{tmp_path}/b cannot be read: No such file or directory"
    )
    assert last.endswith("c/3.jpg")


def test_what_is_no_regular_file_is_left_to_whoever_opens_it(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    touch(tmp_path, "a.jpg")
    with socket.socket(socket.AF_UNIX) as local:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's path may not be long
        try:
            local.bind("socket.jpg")
        finally:
            os.chdir(here)
        assert found(tmp_path) == ["a.jpg", "fifo.jpg", "socket.jpg"]


@given(st.lists(st.binary(min_size=1, max_size=12), max_size=5, unique=True))
def test_every_name_is_found_as_it_is(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("names")
    names = {name.replace(b"/", b"_").replace(b"\0", b"_") + b".jpg" for name in names}
    for name in names:
        (root / os.fsdecode(name)).touch()
    shown = {os.fsencode(path) for path in found(root)} - {os.fsencode(root)}
    assert shown == {name for name in names if not name.startswith(b".")}


def test_names_that_are_not_as_they_look(tmp_path, monkeypatch):
    touch(tmp_path, "a[1].jpg", "a1.jpg", "-", "-x.jpg", "b/c.jpg", "b/notes.txt", "home/d.jpg")
    (tmp_path / "b[2].jpg").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert list(expand(["a[1].jpg"])) == ["a[1].jpg"]  # a file before a pattern
    assert list(expand(["b[2].jpg"])) == ["b[2].jpg"]  # also one that cannot be opened
    assert list(expand(["a[0-9].jpg"])) == ["a1.jpg"]
    assert list(expand(["-"])) == ["-"]
    # A file of that name is not standard input.
    assert list(expand(["[-]", "[-]x*"])) == ["./-", "-x.jpg"]
    assert list(expand(["?"])) == ["./-", "b/c.jpg"]  # a folder that a pattern matches is walked
    # A folder that ** goes into is not walked a second time.
    assert list(expand(["b/**"])) == ["b/c.jpg", "b/notes.txt"]
    assert list(expand(["~/*.jpg", "~"])) == [str(tmp_path / "home" / "d.jpg")] * 2
    touch(tmp_path, "~/e.jpg")
    assert list(expand(["~/e.jpg"])) == ["~/e.jpg"]
    assert list(expand(["HTTPS://x.org/a.jpg", "Http://x.org/*"])) == [
        "HTTPS://x.org/a.jpg",
        "Http://x.org/*",
    ]
    assert list(expand(["a1.jpg", "a1.jpg"])) == ["a1.jpg", "a1.jpg"]
    assert list(expand(["x" * 5000, "\0"])) == ["x" * 5000, "\0"]  # whoever opens them says why not


@pytest.mark.parametrize(
    "pattern", ["nothing*", "[z-a]", "**/**/nothing", "\0*", "b/**/", f"{'x' * 5000}*"]
)
def test_patterns_that_match_nothing_are_errors_of_their_own(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    one, other = expand([pattern, "a.jpg"])
    assert isinstance(one, Unreadable) and pattern in str(one.error)
    assert other == "a.jpg"


def test_an_unreadable_is_answered_with_its_own_error(tmp_path):
    """Even where no image is left to ask for, and without keeping the classifier from its own."""
    (
        Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg"),
        Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg"),
    )
    names = ["", f"{tmp_path}/a.jpg", "no*", f"{tmp_path}/b.jpg", "nor*"]
    model = ServedModel(
        "m",
        "1",
        "i",
        np.dtype(np.float32),
        "o",
        2,
        4,
        1,
        Preprocessing(8, 8),
        OutputKind.LOGITS,
        untrained=False,
    )
    steps = Steps(
        lambda image: model.preprocessing(load_image(image)), lambda batch: [[]] * len(batch)
    )
    given = list(run(steps, expand(names), StreamOptions(), model))
    assert [str(answer.image) for answer in given] == names
    assert {str(answer.image) for answer in given if answer.error} == {"", "no*", "nor*"}
