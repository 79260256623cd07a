"""Files of answers: what they hold is read back as it was, and what is not ours is left alone."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from seresnext101_triton.client.errors import OutputError
from seresnext101_triton.client.records import records_at
from tests.export.test_repository import mounted

OUTPUTS = ["answers.jsonl", "answers.parquet"]
NAMES = st.one_of(
    st.binary(min_size=1, max_size=20).map(os.fsdecode),
    st.text(max_size=10),
    st.text("\\udc89\udce9\n", max_size=10),
)
PREDICTIONS = [{"index": 3, "label": "a: b\n", "probability": 0.5}]


def record(image: str, **changes) -> dict:
    return {"image": image, "model": "m", "version": "1", "predictions": PREDICTIONS} | changes


def held(path: Path, model: str = "m", inexact: Sequence[str] = ()) -> set[str]:
    with records_at(path) as records:
        return records.images(model, inexact)


def write(path: Path, *images: str) -> None:
    with records_at(path) as records:
        for image in images:
            records.append(record(image))


@pytest.mark.parametrize("output", OUTPUTS)
@given(st.sets(NAMES, max_size=5))
@example({"caf\udce9.jpg", "\\udce9", "two\nlines", "\x1b[2J", "日本"})
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_name_is_held_as_it_is(tmp_path_factory, output, names):
    path = tmp_path_factory.mktemp("records") / output
    write(path, *sorted(names))
    assert held(path) == names
    write(path, "another")
    assert held(path) == names | {"another"}


@pytest.mark.parametrize("output", OUTPUTS)
def test_answers_for_images_that_were_opened_otherwise_are_not_gone_on_with(tmp_path, output):
    """Else a second run without `--fast` would say that all is done, and nothing would be exact."""
    exact, fast = tmp_path / f"exact-{output}", tmp_path / f"fast-{output}"
    write(exact, "a.jpg")
    with records_at(fast) as records:
        records.append(record("a.jpg", inexact=["fast", "draft"]))
    assert held(exact) == held(fast, inexact=["draft", "fast"]) == {"a.jpg"}
    opened = "holds answers for images that were opened"
    with pytest.raises(OutputError, match=f"{opened} with `fast` and `draft`, not exactly: name"):
        held(fast)
    with pytest.raises(OutputError, match=f"{opened} exactly, not with `fast`: name another file"):
        held(exact, inexact=["fast"])


def test_json_lines_are_utf8_and_parquet_is_too(tmp_path):
    name = "é\udce9\n.jpg"
    error = f"{name} is no image"
    for output in OUTPUTS:
        with records_at(tmp_path / output) as records:
            records.append({"image": name, "model": "m", "version": "1", "error": error})
    line = (tmp_path / "answers.jsonl").read_text(encoding="utf-8")
    assert (
        line == r'{"image": "é\udce9\n.jpg", "model": "m", "version": "1", '
        r'"error": "é\udce9\n.jpg is no image"}' + "\n"
    )
    assert json.loads(line)["image"] == name
    (row,) = pyarrow.parquet.read_table(tmp_path / "answers.parquet").to_pylist()
    assert (row["image"], row["error"]) == (r"é\udce9\u000a.jpg", r"é\udce9\u000a.jpg is no image")


def test_each_answer_is_in_the_file_when_it_is_given(tmp_path):
    path = tmp_path / "answers.jsonl"
    with records_at(path) as records:
        for count in range(1, 4):
            records.append(record(str(count)))
            assert path.read_text().count("\n") == count


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_was_written_is_on_the_disk_when_the_run_ends(tmp_path, output, monkeypatch):
    """The content before the name, and the name too."""
    calls: list[tuple[str, str]] = []
    fsync, rename = os.fsync, Path.replace

    def noted_fsync(file):
        calls.append(("fsync", Path(os.readlink(f"/proc/self/fd/{file}")).name))
        fsync(file)

    monkeypatch.setattr("os.fsync", noted_fsync)
    monkeypatch.setattr(
        Path,
        "replace",
        lambda self, target: calls.append(("rename", target.name)) or rename(self, target),
    )
    write(tmp_path / output, "a.jpg")
    assert (
        calls
        == {
            "answers.jsonl": [("fsync", "answers.jsonl")],
            "answers.parquet": [
                ("fsync", "part-00000.unfinished"),
                ("rename", "part-00000.parquet"),
                ("fsync", "answers.parquet"),
            ],
        }[output]
    )


@pytest.mark.parametrize("output", OUTPUTS)
def test_two_runs_do_not_write_into_one_output(tmp_path, output):
    """The other run may be any process. When it has ended, for any reason, the output is free."""
    path = tmp_path / output
    code = (
        "import sys, pathlib; from seresnext101_triton.client.records import records_at; "
        "records_at(pathlib.Path(sys.argv[1])).__enter__(); print(); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(
            OutputError,
            match=rf"another run writes into .*{output}: wait for its end, or name another output",
        ):
            held(path)
        other.kill()
    assert held(path) == set()


def test_a_file_system_without_locks_is_written_to_all_the_same(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    write(tmp_path / "answers.jsonl", "a")
    assert held(tmp_path / "answers.jsonl") == {"a"}


OURS = json.dumps(record("a.jpg")) + "\n"


@pytest.mark.parametrize(
    ("content", "images"),
    [
        ("\ufeff" + OURS, {"a.jpg"}),
        (OURS.replace("\n", "\r\n"), {"a.jpg"}),
        (OURS + "\n\n" + OURS.replace("a.jpg", "b.jpg"), {"a.jpg", "b.jpg"}),
        (OURS + OURS, {"a.jpg"}),
        (OURS + OURS[:1], {"a.jpg"}),
        (OURS + OURS[:-1], {"a.jpg"}),
        (OURS + '{"image": "\0\0\0\0', {"a.jpg"}),
        (OURS + "\0" * 5000, {"a.jpg"}),  # what a power cut leaves
        (OURS[:30], set()),
        ("", set()),
    ],
)
def test_a_file_that_an_editor_or_a_crash_has_touched(tmp_path, content, images):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(content.encode())
    assert held(path) == images
    assert held(path) == images
    write(path, "c.jpg")
    assert held(path) == images | {"c.jpg"}


@pytest.mark.parametrize(
    "content",
    [
        b"dear diary",  # without an end of its line
        b"dear diary\n",
        b"\0" * 100,
        OURS.encode() + b"dear diary",
        OURS.encode() + b"dear diary\n",
        OURS.encode() + b'{"image": 3, "model": "m"}\n',
        b'{"image": ["a"], "model": "m"}\n',
        b'{"image": "a"}\n',
        b'["image", "model"]\n',
        b"null\n",
        b"3\n",
        b"[" * 100_000 + b"\n",
        b"1" * 5000 + b"\n",
        b'{"image": "caf\xe9", "model": "m"}\n',
        OURS.encode("utf-16"),
        OURS.encode().replace(b'"m"', b'"other"') + OURS.encode()[:30],
        b"x" * ((64 << 20) + 1),
    ],
)
def test_what_is_not_ours_is_left_alone(tmp_path, content):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(content)
    with pytest.raises(
        OutputError,
        match="holds something else than the answers of an earlier run|"
        "holds answers of other, not of m",
    ):
        held(path)
    assert path.read_bytes() == content


@given(
    st.one_of(
        st.binary(max_size=100),
        st.lists(
            st.sampled_from(
                [OURS.encode(), OURS.encode()[:20], b"\n", b"\r", b"\0", b"{}", b"\xef\xbb\xbf"]
            )
        ).map(b"".join),
    )
)
def test_any_file_is_gone_on_with_or_left_alone(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    try:
        images = held(path)
    except OutputError:
        assert path.read_bytes() == content
    else:
        kept = path.read_bytes()
        assert images <= {"a.jpg"}
        assert content.startswith(kept) and b"\n" not in content[len(kept) :]
        assert held(path) == images


def test_places_that_no_run_can_go_on_with(tmp_path):
    os.mkfifo(tmp_path / "fifo.jsonl")
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "file.parquet").touch()
    for path, message in {
        tmp_path: "is a folder: name a file in it",
        tmp_path / "fifo.jsonl": "is not a regular file",
        Path("/dev/null"): "is not a regular file",
        tmp_path / "loop.jsonl": "cannot be written: Too many levels of symbolic links. Name",
        tmp_path
        / "nowhere"
        / "answers.jsonl": f"written: there is no folder {tmp_path}/nowhere. N",
        tmp_path / "nowhere" / "answers.parquet": f"written: there is no folder {tmp_path}/nowhere",
        tmp_path / "file.parquet": "is a file, and answers in Parquet are a folder",
        tmp_path / ("x" * 300): "cannot be written: File name too long. Name another output$",
        tmp_path / "photo.JPG": "is named like a picture",
    }.items():
        with pytest.raises(OutputError, match=message):
            held(path)


def test_a_link_to_a_file_is_followed(tmp_path):
    (tmp_path / "link.jsonl").symlink_to("answers.jsonl")
    write(tmp_path / "link.jsonl", "a")
    assert held(tmp_path / "answers.jsonl") == {"a"}


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_removed_during_the_run_is_said(tmp_path, replaced):
    path = tmp_path / "answers.jsonl"
    with (
        pytest.raises(OutputError, match="was removed or replaced during the run"),
        records_at(path) as records,
    ):
        records.append(record("a"))
        path.unlink()
        if replaced:
            path.touch()


def test_no_half_of_a_line_stays_on_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, "size=8k"):
        path = disk / "answers.jsonl"
        with (
            pytest.raises(
                OutputError,
                match="cannot be written: No space left on device. What it holds is whole",
            ),
            records_at(path) as records,
        ):
            for number in range(1000):
                records.append(record(f"{number}.jpg"))
        content = path.read_bytes()
        assert len(content) > 4096 and content.endswith(b"\n")
        assert held(path) == {f"{number}.jpg" for number in range(content.count(b"\n"))}


def test_names_of_parts_that_are_not_ours_do_not_matter(tmp_path):
    path = tmp_path / "answers.parquet"
    write(path, "a")
    os.rename(path / "part-00000.parquet", path / "part-²-mine.parquet")
    (path / "notes.txt").write_text("dear diary")
    write(path, "b")
    write(path, "c")
    assert {"part-00000.parquet", "part-00001.parquet"} <= set(os.listdir(path))
    assert held(path) == {"a", "b", "c"}


def test_an_output_whose_name_is_not_utf8(tmp_path):
    for output in OUTPUTS:
        path = tmp_path / f"caf\udce9-{output}"
        write(path, "a")
        assert held(path) == {"a"}
