"""`python -m client`, as a person and a script see it."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from seresnext101_triton.client.cli import main
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.client.text import unescaped

CAT = str(next(path for path in sample_photographs() if path.stem == "chelsea"))
ROCKET = str(next(path for path in sample_photographs() if path.stem == "rocket"))


@pytest.fixture
def classify(server, capsys):
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["classify", *arguments, "--url", server.url])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_table(classify):
    code, out, err = classify(CAT, ROCKET, "--model", "tiny_onnx", "--top", "3")
    assert (code, err) == (0, "")
    assert "tiny_onnx · version 1" in out
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows if row and row[0].endswith(".jpg")] == [
        "chelsea.jpg",
        "rocket.jpg",
    ]
    assert sum("%" in line for line in out.splitlines()) == 6


def test_untrained_weights_are_called_so(classify):
    _, out, _ = classify(CAT, "--model", "tiny_onnx")
    assert "UNTRAINED WEIGHTS" in out
    assert json.loads(classify(CAT, "--model", "tiny_onnx", "--json")[1])[0]["untrained"] is True


def test_both_models_agree(classify):
    code, out, _ = classify(
        CAT, ROCKET, "--model", "tiny_onnx", "--model", "tiny_torchscript", "--json"
    )
    onnx, torchscript = json.loads(out)
    assert code == 0
    assert (onnx["model"], torchscript["model"]) == ("tiny_onnx", "tiny_torchscript")
    indices = [
        [[p["index"] for p in image["predictions"]] for image in model["images"]]
        for model in (onnx, torchscript)
    ]
    assert indices[0] == indices[1]
    assert [image["image"] for image in onnx["images"]] == [CAT, ROCKET]


def test_a_bad_image_does_not_stop_the_others(classify, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    code, out, err = classify(
        CAT, str(tmp_path / "bad.jpg"), ROCKET, "--model", "tiny_onnx", "--json"
    )
    assert code == 1
    answers = {image["image"]: image for image in json.loads(out)[0]["images"]}
    assert len(answers[CAT]["predictions"]) == len(answers[ROCKET]["predictions"]) == 5
    assert "is not an image" in answers[str(tmp_path / "bad.jpg")]["error"]
    assert err.startswith("error: ") and err.count("\n") == 1


def test_no_server_is_a_line_and_a_code_of_its_own(capsys):
    assert main(["classify", CAT, "--url", "127.0.0.1:1", "--model", "x"]) == 69
    err = capsys.readouterr().err
    assert err.startswith("error: no Triton server answers at 127.0.0.1:1") and err.count("\n") == 1


def test_an_unknown_model_is_a_line(classify):
    code, _, err = classify(CAT, "--model", "cats")
    assert code == 1
    assert err.count("\n") == 1


def test_the_client_never_imports_torch():
    script = (
        "import sys\nfrom seresnext101_triton.client import classifier, cli, images\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"


def test_a_reader_that_stops_early_is_no_error(server):
    command = [
        sys.executable,
        "-m",
        "client",
        "classify",
        CAT,
        "--model",
        "tiny_onnx",
        "--url",
        server.url,
        "--top",
        "1000",
    ]
    result = subprocess.run(
        f"{' '.join(command)} | head -1", shell=True, capture_output=True, text=True, check=True
    )
    assert result.stderr == ""


KNOWN = (["classify"], ["describe"])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["classify"],
        ["classify", CAT, "--top", "0"],
        ["classify", CAT, "--version", "abc"],
        ["classify", CAT, "--bogus", "\x1b"],
        ["describe", "m", "--version", "0"],
        ["describe", "m", "n"],
        ["nonsense"],
    ],
)
def test_wrong_usage_is_one_line_and_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    command = "python -m client" + (f" {arguments[0]}" if arguments[0:1] in KNOWN else "")
    said = capsys.readouterr().err
    assert re.fullmatch(f"error: [^\x1b\n]+; see {command} --help\n", said)


@pytest.mark.parametrize("models", [(), ("a",), ("a", "b", "c")])
def test_disagreements_are_of_two_models(models, capsys):
    named = [word for model in models for word in ("--model", model)]
    assert main(["evaluate", "x", *named, "--worst", "3"]) == 2
    assert capsys.readouterr().err.startswith("error: --worst is of the disagreements of two")


def test_images_stand_before_and_after_options(classify):
    code, out, err = classify(CAT, "--model", "tiny_onnx", ROCKET, "--jsonl", "--top", "1", CAT)
    assert (code, err) == (0, "")
    assert [json.loads(line)["image"] for line in out.splitlines()] == [CAT, ROCKET]


def test_lines_and_rows_for_machines(classify):
    _, out, _ = classify(CAT, ROCKET, "--model", "tiny_onnx", "--jsonl", "--top", "2")
    first, second = map(json.loads, out.splitlines())
    assert (first["image"], second["image"], first["model"], first["untrained"]) == (
        CAT,
        ROCKET,
        "tiny_onnx",
        True,
    )
    _, out, _ = classify(CAT, "--model", "tiny_onnx", "--csv", "--top", "2")
    header, *rows = csv.reader(out.splitlines())
    assert header == ["model", "version", "image", "rank", "index", "label", "probability"]
    assert [row[4] for row in rows] == [str(one["index"]) for one in first["predictions"]]


def test_a_folder_in_batches_of_ones_own(classify):
    code, out, _ = classify(
        str(sample_photographs()[0].parent),
        "--model",
        "tiny_onnx",
        "--json",
        "--batch",
        "3",
        "--in-flight",
        "1",
    )
    assert code == 0
    assert [image["image"] for image in json.loads(out)[0]["images"]] == [
        str(path) for path in sample_photographs()
    ]
    code, _, err = classify(CAT, "--model", "tiny_onnx", "--batch", "5")
    assert (code, err) == (2, "error: --batch must be from 1 to 4 images, not 5\n")


@pytest.mark.parametrize("position", range(4))
def test_a_bad_file_anywhere_in_a_batch(classify, tmp_path, position):
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    images = [CAT, ROCKET, CAT.replace("chelsea", "coffee")]
    images.insert(position, str(tmp_path / "bad.jpg"))
    code, out, err = classify(*images, "--model", "tiny_onnx", "--json", "--batch", "4")
    assert code == 1
    assert sum("predictions" in image for image in json.loads(out)[0]["images"]) == 3
    assert "bad.jpg is not an image" in err


def test_the_gallery(classify, tmp_path):
    target = tmp_path / "gallery.png"
    code, _, err = classify(CAT, ROCKET, "--model", "tiny_onnx", "--gallery", str(target))
    assert (code, err) == (0, f"drawn: {target}\n")
    sheet = Image.open(target).convert("RGB")
    assert sheet.width > 500 and sheet.height > 400
    assert len(sheet.getcolors(1 << 24) or []) > 1000  # photographs, not an empty sheet


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere/x.png", "nowhere is not a folder"),
        ("x.txt", "its name must end in the suffix of an image, such as .png"),
        ("folder.png", "it is a folder"),
        (f"{'x' * 300}.png", "File name too long"),
    ],
)
def test_a_gallery_that_cannot_be_written_is_refused_before_anything_is_sent(
    tmp_path, capsys, name, reason
):
    (tmp_path / "folder.png").mkdir()
    path = tmp_path / name
    line = ["classify", CAT, "--url", "127.0.0.1:1", "--model", "m", "--gallery", str(path)]
    assert main(line) == 73
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path} cannot be written: ") and said.endswith(f"{reason}\n")
    assert [left.name for left in tmp_path.iterdir()] == ["folder.png"]


@pytest.fixture
def ask(server, capsys):
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--url", server.url])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_what_a_server_offers(ask):
    code, out, _ = ask("models")
    assert code == 0
    assert [line.split() for line in out.splitlines()][1:] == [
        [n, "1", "READY"]
        for n in ("logits_torchscript", "tiny_onnx", "tiny_openvino", "tiny_torchscript")
    ]
    assert json.loads(ask("models", "--json")[1])[1] == {
        "name": "tiny_onnx",
        "version": "1",
        "state": "READY",
        "reason": "",
    }


def test_how_a_model_is_used(ask):
    code, out, _ = ask("describe", "tiny_onnx")
    assert code == 0
    for words in (
        "INPUT__0: float32 [3, 64, 64]",
        "1000 probabilities",
        "shorter side to 72 px, bilinear; centre 64 px",
        "untrained",
    ):
        assert words in out
    assert json.loads(ask("describe", "tiny_onnx", "--json")[1])["largest batch"] == "4"
    assert ask("describe", "cats")[0] == 1


def test_health(ask, capsys):
    code, out, _ = ask("health")
    assert code == 0
    assert "2.51.0" in out and "tiny_onnx" in out
    assert main(["health", "--url", "127.0.0.1:1", "--retries", "0"]) == 69
    assert "no Triton server answers" in capsys.readouterr().err


def as_process(
    server, arguments: str, redirection: str = "", **environment: str
) -> subprocess.CompletedProcess:
    command = f"{sys.executable} -m client {arguments} --url {server.url} {redirection}"
    return subprocess.run(
        command, shell=True, capture_output=True, env=os.environ | environment, timeout=300
    )


def test_tls_to_a_server_without_it_is_one_line(server):
    found = as_process(server, "health --tls --retries 0")
    assert found.returncode == 69
    assert found.stderr.startswith(b"error: ") and found.stderr.count(b"\n") == 1


def test_names_of_any_bytes(classify, tmp_path):
    name = str(tmp_path / "caf\udce9\x1b[31m\n.jpg")
    shutil.copy(CAT, name)
    for form in ("--json", "--jsonl"):
        code, out, err = classify(name, "--model", "tiny_onnx", form)
        document = json.loads(out)
        assert (code, err) == (0, "")
        assert (document if form == "--jsonl" else document[0]["images"][0])["image"] == name
    _, out, _ = classify(name, "--model", "tiny_onnx", "--csv", "--top", "1")
    assert unescaped(list(csv.reader(out.splitlines()))[1][2]) == name
    _, out, _ = classify(name, "--model", "tiny_onnx")
    assert "\x1b" not in out and r"caf\udce9" in out
    code, out, err = classify(name + "x", "--model", "tiny_onnx", "--json")
    assert (code, json.loads(out)[0]["images"][0]["image"]) == (1, name + "x")
    assert err.count("\n") == 1 and "\x1b" not in err


def test_entries_of_a_folder_that_fail_and_files_that_are_left_out(classify, tmp_path):
    shutil.copy(CAT, tmp_path / "cat.jfif")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").mkdir()
    code, out, err = classify(
        str(tmp_path), str(tmp_path / "empty"), "no*", CAT, "--model", "tiny_onnx", "--json"
    )
    assert code == 1
    (document,) = json.loads(out)
    answered = {image["image"] for image in document["images"] if "predictions" in image}
    assert answered == {CAT, str(tmp_path / "cat.jfif")}
    assert {image["image"] for image in document["images"]} - answered == {
        str(tmp_path / "loop"),
        str(tmp_path / "empty"),
        "no*",
    }
    assert document["files_left_out"] == 1
    assert "left out: 1 file not named like a picture (1 .txt)\n" in err
    assert err.count("error: ") == 3


def test_a_name_that_begins_with_a_dash(server, tmp_path, monkeypatch):
    shutil.copy(CAT, tmp_path / "-cat.jpg")
    monkeypatch.chdir(tmp_path)
    options = ["--model", "tiny_onnx", "--url", server.url]
    assert main(["classify", *options, "--", "-cat.jpg"]) == 0
    assert main(["classify", CAT, *options, "--", "-cat.jpg"]) == 0


@pytest.mark.parametrize("debug", [False, True])
def test_a_traceback_only_when_asked_for(classify, tmp_path, debug):
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    code, _, err = classify(str(tmp_path / "bad.jpg"), "--model", "tiny_onnx", *["--debug"] * debug)
    assert code == 1
    assert ("Traceback" in err, "client/images.py" in err) == (debug, debug)


@pytest.mark.parametrize("debug", [False, True])
def test_a_bug_is_called_so(classify, monkeypatch, debug):
    def broken(*_):
        raise KeyError("x\x1b")

    monkeypatch.setattr("seresnext101_triton.client.sources.expand", broken)
    code, _, err = classify(CAT, "--model", "tiny_onnx", *["--debug"] * debug)
    assert code == 70
    assert err.startswith(
        r"error: this is a bug of the client: KeyError: 'x\x1b' (test_cli.py, line "
    )
    assert ("Traceback" in err, err.count("\n") == 1, "run it again with --debug" in err) == (
        debug,
        not debug,
        not debug,
    )


def test_streams_that_are_closed_full_or_of_another_encoding(server):
    classify = f"classify {CAT} --model tiny_onnx"
    closed = as_process(server, classify, ">&-")
    assert (closed.returncode, closed.stderr) == (
        73,
        b"error: standard output is closed, and the answers belong there\n",
    )
    for form in ("", "--json", "--csv", "--jsonl"):
        full = as_process(server, f"{classify} {form}", ">/dev/full")
        assert (full.returncode, full.stderr) == (
            73,
            b"error: standard output cannot be written: No space left on device\n",
        )
    silent = as_process(server, f"{classify} --json".replace(CAT, f"{CAT} nowhere.jpg"), "2>&-")
    assert silent.returncode == 1
    assert len(json.loads(silent.stdout)[0]["images"]) == 2
    ascii_ = as_process(server, classify, LC_ALL="C", PYTHONIOENCODING="ascii")
    assert (ascii_.returncode, ascii_.stderr) == (0, b"")
    assert b"tiny_onnx - version 1" in ascii_.stdout and ascii_.stdout.isascii()


def test_json_is_ascii_where_the_terminal_is(server, tmp_path):
    shutil.copy(CAT, tmp_path / "é.jpg")
    found = as_process(
        server, f"classify {tmp_path} --model tiny_onnx --jsonl", PYTHONIOENCODING="ascii"
    )
    assert found.stdout.isascii() and json.loads(found.stdout)["image"] == str(tmp_path / "é.jpg")


def test_a_gallery_of_nothing_is_one_line(classify, tmp_path):
    code, _, err = classify(
        "nowhere.jpg", "--model", "tiny_onnx", "--gallery", str(tmp_path / "x.png")
    )
    assert code == 1 and "x.png is not drawn: there is no file with an answer" in err


def test_the_command_line_names_flags_where_the_library_names_parameters():
    from seresnext101_triton.client.errors import ToolkitError
    from seresnext101_triton.client.options import FLAGS
    from seresnext101_triton.client.output import with_flags

    text = with_flags(
        ToolkitError(
            "send it in `headers`, or name another in `url`; `x` and `python -m client` stay"
        ),
        FLAGS,
    )
    assert text == "send it in --header, or name another in --url; `x` and `python -m client` stay"
    named = {
        name
        for path in Path("client").rglob("*.py")
        for name in re.findall(r"[^`]`([a-z_.]+)`[^`]", path.read_text())
    }
    assert set(FLAGS) <= named


def test_no_error_of_the_library_names_a_flag():
    for path in Path("client").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise):
                assert not re.search(r"--[a-z]", ast.unparse(node)), (path, node.lineno)
