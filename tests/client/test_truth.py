"""Images and their classes, as people write them down."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seresnext101_triton.client.errors import ClientError
from seresnext101_triton.client.truth import Notes, read_truth


@pytest.fixture
def read(tmp_path):
    def read(content: bytes | str, classes: int = 10, notes: Notes | None = None) -> dict[str, int]:
        path = tmp_path / "truth.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        truth = read_truth(path, classes, notes)
        return {image.removeprefix(f"{tmp_path}/"): index for image, index in truth.items()}

    return read


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a.jpg,3\nb.jpg,4\n", {"a.jpg": 3, "b.jpg": 4}),
        ("a.jpg,3\nb.jpg,4", {"a.jpg": 3, "b.jpg": 4}),
        ("\ufeffa.jpg,3\n", {"a.jpg": 3}),
        ("\ufeffimage,class\r\na.jpg,3\r\n", {"a.jpg": 3}),
        ("\n \n,\nimage,class\n\na.jpg,3\n\n", {"a.jpg": 3}),
        ("filename,label\na,0\n", {"a": 0}),
        ('"a,b.jpg",3\n"say ""cheese"".jpg",4\n', {"a,b.jpg": 3, 'say "cheese".jpg': 4}),
        ("a.jpg, 3\n b.jpg , 4 \n", {"a.jpg": 3, "b.jpg": 4}),
        ("a.jpg,007\n", {"a.jpg": 7}),
        ("/elsewhere/a.jpg,3\n", {"/elsewhere/a.jpg": 3}),
        (
            "http://x.org/a.jpg,3\nHTTPS://x.org/b.jpg,4\n",
            {"http://x.org/a.jpg": 3, "HTTPS://x.org/b.jpg": 4},
        ),
        ("日本.jpg,3\n", {"日本.jpg": 3}),
        (b"caf\xe9.jpg,3\n", {"caf\udce9.jpg": 3}),
        ('"two\nlines.jpg",3\n', {"two\nlines.jpg": 3}),
        ('"two\r\nlines.jpg",3\r\n', {"two\r\nlines.jpg": 3}),
        ("./a.jpg,3\na.jpg,3\n", {"a.jpg": 3}),
    ],
)
def test_what_is_read(read, content, expected):
    assert read(content) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.jpg,cat\nb.jpg,3\n", "line 1: expected an image and a class index, found 'a.jpg,cat'"),
        ("HTTP://x.org/a,cat\n", "line 1: expected an image and a class index"),
        (
            "image,class\nimage,class\n",
            "line 2: expected an image and a class index, found 'image,class'",
        ),
        (
            "a.jpg,3\nimage,class\n",
            "line 2: expected an image and a class index, found 'image,class'",
        ),
        (
            "image,class\n\n\nb.jpg,cat\n",
            "line 4: expected an image and a class index, found 'b.jpg,cat'",
        ),
        ("a.jpg,²\n", "line 1: .*found 'a.jpg,²'"),
        ("a.jpg,٣\n", "line 1: .*found 'a.jpg,٣'"),
        ("image,²\n", "line 1: .*found 'image,²'"),
        ("a.jpg,3.0\n", "line 1: .*found 'a.jpg,3.0'"),
        ("a.jpg,-1\n", "line 1: .*found 'a.jpg,-1'"),
        ("a.jpg,+1\n", "line 1: .*found"),
        ("a.jpg,1e3\n", "line 1: .*found"),
        (f"a.jpg,{'9' * 5000}\n", "expected an image and a class index, found 'a.jpg,9{194}'$"),
        (
            "a.jpg,999999999\n",
            "line 1 names class 999999999, and the model has the classes 0 to 9$",
        ),
        ("a.jpg,3\nb.jpg,10\n", "line 2 names class 10, and the model has the classes 0 to 9$"),
        ("a.jpg\n", "line 1: expected an image and a class index, found 'a.jpg'$"),
        ("a.jpg,3\n,4\n", "line 2: expected an image and a class index, found ',4'"),
        ("a.jpg;3\n", "divide the columns by a comma, not by ';'"),
        ("a.jpg\t3\n", r"divide the columns by a comma, not by '\\t'"),
        ("a,b.jpg,3\n", "line 1: .*a name that holds a comma stands in quotes"),
        ("a.jpg,3\nb.jpg,4\na.jpg,5\n", "line 3 says class 5 of .*a.jpg, and line 1 says class 3$"),
        ('a.jpg,3\n"b.jpg,4\n', "line 2: no CSV, unexpected end of data"),
        ('"a"b,3\n', "line 1: no CSV"),
        (f"a.jpg,3\n{'x' * 200_000},4\n", "line 2 is longer than 65536 characters"),
        ('"' + "line\n" * 100_000 + '",3\n', "no CSV, field larger than field limit"),
        ("a.jpg,3\n\0,4\n", "line 2 holds a zero byte"),
        ("a.jpg,3\n".encode("utf-16"), "line 1 holds a zero byte: .*UTF-16"),
        ("\x1b[2J,3,4\n", r"found '\\\\x1b\[2J,3,4'"),
        ("", "holds no image with a class"),
        ("image,class\n", "holds no image with a class"),
    ],
)
def test_what_is_refused(read, content, message):
    with pytest.raises(ClientError, match=message) as caught:
        read(content)
    assert len(str(caught.value).splitlines()) == 1


def test_a_first_line_that_names_a_file_is_no_header(read, tmp_path):
    (tmp_path / "image").touch()
    with pytest.raises(ClientError, match="line 1: expected"):
        read("image,class\na.jpg,3\n")


def test_a_repeated_image_counts_once_and_is_said(read):
    notes = Notes()
    assert read("a.jpg,3\nb.jpg,4\na.jpg,3\n./b.jpg,4\n", notes=notes) == {"a.jpg": 3, "b.jpg": 4}
    assert str(notes) == "2 lines that repeat an image with the same class"


def test_blanks_belong_to_a_name_where_there_is_such_a_file(read, tmp_path):
    (tmp_path / " a.jpg").touch()
    assert read(" a.jpg,3\n b.jpg,4\n") == {" a.jpg": 3, "b.jpg": 4}


@pytest.mark.parametrize("name", ["nowhere.csv", "x" * 300, "loop.csv"])
def test_a_source_that_cannot_be_read(tmp_path, name):
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    with pytest.raises(ClientError, match="cannot be read: "):
        read_truth(tmp_path / name, 10)


CELLS = st.one_of(
    st.sampled_from(["a.jpg", "b.jpg", "", "0", "3", "²", "-1", "http://x/a", '"', "\0", "\r"]),
    st.text(max_size=5),
)
ROWS = st.lists(st.lists(CELLS, max_size=3), max_size=5)


@given(
    st.one_of(
        st.binary(max_size=200),
        ROWS.map(lambda rows: "\n".join(map(",".join, rows)).encode("utf-8", "surrogatepass")),
    )
)
def test_any_file_is_a_truth_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    try:
        truth = read_truth(path, 10)
    except ClientError as error:
        assert str(path) in str(error)
        assert len(str(error).splitlines()) == 1
    else:
        assert truth and all(
            isinstance(image, str) and index in range(10) for image, index in truth.items()
        )


def pictures(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_what_lies_outside_of_classes_or_is_no_picture_is_said(tmp_path):
    pictures(
        tmp_path,
        "0/a.jpg",
        "7/b.jpg",
        "7/.b.jpg",
        "7/notes.txt",
        "lost.jpg",
        "readme.txt",
        ".git/x",
    )
    notes = Notes()
    assert read_truth(tmp_path, 10, notes) == {f"{tmp_path}/0/a.jpg": 0, f"{tmp_path}/7/b.jpg": 7}
    assert (
        str(notes) == "2 files not named like a picture (2 .txt), 2 hidden, "
        "1 pictures beside the class folders"
    )


def test_class_folders_that_are_no_classes(tmp_path):
    pictures(tmp_path, "0/a.jpg", "10/b.jpg")
    with pytest.raises(ClientError, match="names class 10, and the model has the classes 0 to 9"):
        read_truth(tmp_path, 10)
    pictures(tmp_path, "00/c.jpg")
    with pytest.raises(ClientError, match="has two folders for class 0: 0 and 00"):
        read_truth(tmp_path, 11)


@pytest.mark.parametrize("name", ["²", "٣", "3.0", "-1"])
def test_class_folders_whose_names_are_no_index(tmp_path, name):
    pictures(tmp_path, "0/a.jpg", f"{name}/b.jpg", "2/c.jpg")
    with pytest.raises(ClientError, match="has 3 folders, and the model 10 classes"):
        read_truth(tmp_path, 10)
    assert set(read_truth(tmp_path, 3).values()) == {0, 1, 2}  # in their order


def test_a_link_is_a_class_folder_too(tmp_path):
    pictures(tmp_path, "all/a.jpg")
    (tmp_path / "val").mkdir()
    os.symlink("../all", tmp_path / "val" / "4")
    assert read_truth(tmp_path / "val", 10) == {f"{tmp_path}/val/4/a.jpg": 4}
