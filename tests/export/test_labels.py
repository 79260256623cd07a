"""Names of classes: plain UTF-8 text, one a line. What is not is refused with its line."""

from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seresnext101_triton.export.errors import OptionError
from seresnext101_triton.export.labels import labels_for
from tests.conftest import tiny_request


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"cat\ndog\n", "cat\ndog\n"),
        (b"cat\ndog", "cat\ndog\n"),
        (b"\xef\xbb\xbfcat\ndog\n", "cat\ndog\n"),
        (b"cat\r\ndog\r\n\r\n", "cat\ndog\n"),
        (b"crane\ncrane\n", "crane\ncrane\n"),
        (b"a: b\n{c}\n", "a: b\n{c}\n"),
        ("été\n猫\n".encode(), "été\n猫\n"),
        ("👩\u200d🚀\n a b \n".encode(), "👩\u200d🚀\n a b \n"),
    ],
)
def test_names_as_they_are_written(tmp_path, content, expected):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    assert labels_for(2, str(path)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\ncaf\xe9\n", "line 2 is not UTF-8"),
        ("cat\ndog\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        (b"cat\n\x1b[31mdog\n", "line 2 has the control character U+001B"),
        (b"cat\tfelis\ndog\n", "line 1 has the control character U+0009"),
        (b"cat\rdog\r", "line 1 has the control character U+000D"),
        (b"cat\n\x00dog\n", "line 2 has the control character U+0000"),
        ("cat\ndog\u2028\n".encode(), "line 2 has the control character U+2028"),
        ("cat\n\u202egod\n".encode(), "line 2 has the control character U+202E"),
        (b"cat\n\ndog\n", "line 2 is blank"),
        (b"cat\n  \n", "line 2 is blank"),
        (b"", "names 0 classes, but the network has 2"),
        (b"cat\ndog\ncow\n", "names 3 classes, but the network has 2"),
        (b'["cat", "dog"]', "is JSON or the like: write the names as plain text"),
        (b'{"0": "cat",\n"1": "dog",\n"2": "cow"}\n', "is JSON or the like"),
    ],
)
def test_what_is_no_list_of_names(tmp_path, content, message):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(OptionError) as error:
        labels_for(2, str(path))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, message in [
        (tmp_path, "is a folder"),
        (tmp_path / "fifo", "is no regular file"),
        (tmp_path / "x", "cannot be read: No such"),
    ]:
        with pytest.raises(OptionError, match=message):
            labels_for(2, str(path))


@settings(max_examples=300)
@given(
    content=st.binary(max_size=60)
    | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_any_bytes_are_names_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "labels.txt"
    path.write_bytes(content)
    try:
        names = labels_for(2, str(path))
    except OptionError as error:
        assert "`labels`" in str(error)
        return
    assert names is not None and names.count("\n") == 2 and names.endswith("\n")
    assert all(name.strip() for name in names.splitlines())
    assert not [
        letter
        for letter in names.replace("\n", "")
        if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")
    ]


@pytest.mark.parametrize("text", ["", " "])
def test_labels_without_a_file(tmp_path, text):
    with pytest.raises(OptionError, match="`labels` is empty: name a file"):
        tiny_request(tmp_path, labels=text)


@pytest.mark.parametrize(
    "name", ["café", "a b", "a.b", ".", "..", "a/b", "", "²", "a\n", "x" * 238]
)
def test_names_that_models_cannot_have(tmp_path, name):
    with pytest.raises(OptionError, match="`name`"):
        tiny_request(tmp_path, name=name)


@pytest.mark.parametrize("name", ["a", "A-b_9", "-", "x" * 237])
def test_names_that_models_can_have(tmp_path, name):
    assert tiny_request(tmp_path, name=name).name == name
