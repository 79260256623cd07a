"""What is printed, for people and machines, whatever names and labels hold."""

from __future__ import annotations

import csv
import json
import re

import pytest
from scipy.stats import binomtest

from seresnext101_triton.client.cli import main
from seresnext101_triton.client.decoding import Prediction
from seresnext101_triton.client.documents import (
    Answers,
    evaluations_to_json,
    print_csv,
    print_json,
    print_json_lines,
)
from seresnext101_triton.client.errors import OutputError
from seresnext101_triton.client.evaluation import Disagreement, Evaluation, Share
from seresnext101_triton.client.tables import (
    UNTRAINED,
    print_answers,
    print_evaluations,
    print_facts,
    print_rows,
)
from seresnext101_triton.client.text import unescaped

NAME = "caf\udce9\x1b[31m\n\x9b.jpg"
LABEL = "crane [bird] [/b] :cat: \x1b]0;title\x07\x9b2J"


@pytest.fixture
def answers() -> Answers:
    return Answers(
        "m", "1", False, {NAME: [Prediction(3, LABEL, 0.5)]}, {"b\nc": "b\nc is no image"}
    )


def assert_harmless(text: str) -> None:
    assert not set(text) & {"\x1b", "\x07", "\x9b", "\udce9"}


def test_the_table(answers, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    print_answers([answers])
    out = capsys.readouterr().out
    assert_harmless(out)
    for part in (r"caf\udce9\x1b[31m\n\x9b.jpg", "crane [bird] [/b] :cat:", "50.00%", "█" * 10):
        assert part in out


def test_the_title_is_one_line_however_narrow_the_terminal_is(answers, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    answers.inexact = ["fast", "draft"]
    print_answers([answers])
    first, *_ = capsys.readouterr().out.splitlines()
    assert first == "m · version 1 · inexact: fast and draft"


def test_json(answers, capsys):
    print_json([answers.to_json()])
    out = capsys.readouterr().out
    assert_harmless(out)
    (document,) = json.loads(out)
    assert [image["image"] for image in document["images"]] == [NAME, "b\nc"]
    assert document["images"][0]["predictions"] == [
        {"index": 3, "label": LABEL, "probability": 0.5}
    ]
    print_json_lines([answers])
    out = capsys.readouterr().out
    assert_harmless(out)
    assert [json.loads(line)["image"] for line in out.splitlines()] == [NAME, "b\nc"]


def test_csv(answers, capsys):
    print_csv([answers])
    out = capsys.readouterr().out
    assert_harmless(out)
    header, row = csv.reader(out.splitlines())
    found = dict(zip(header, row, strict=True))
    assert (unescaped(found["image"]), unescaped(found["label"])) == (NAME, LABEL)
    assert (found["rank"], found["index"], found["probability"]) == ("1", "3", "0.5")


def evaluation(model: str, **failed: str) -> Evaluation:
    return Evaluation(
        model,
        "1",
        {NAME: 3} | dict.fromkeys(failed, 0),
        {NAME: [Prediction(3, LABEL, 0.5)]},
        failed,
    )


def test_evaluations(capsys):
    evaluations = [evaluation("first", bad="no image"), evaluation("second")]
    worst = [Disagreement(NAME, Prediction(3, LABEL, 0.5), Prediction(4, "[red]", 0.25))]
    print_evaluations(evaluations, Share(1, 1), worst)
    out = capsys.readouterr().out
    assert_harmless(out)
    rows = [line.split() for line in out.splitlines()]
    assert next(row[4:7] for row in rows if row and row[0] == "first") == ["1", "of", "2"]
    assert "[red] 25.0%" in out
    document = evaluations_to_json(evaluations, Share(1, 1), worst)
    assert document["worst"] == [{"image": NAME, "labels": [LABEL, "[red]"]}]
    assert (document["models"][0]["images"], document["models"][0]["failed"]) == (
        1,
        {"bad": "no image"},
    )


def test_an_accuracy_of_no_image_is_no_number(capsys):
    nothing = Evaluation("m", "1", {"a": 1}, {}, {"a": "no image"})
    print_json(evaluations_to_json([nothing], None, []))
    assert json.loads(capsys.readouterr().out)["models"][0]["top1"] == {
        "value": None,
        "interval": [0.0, 1.0],
    }
    print_evaluations([nothing], None, [])
    out = capsys.readouterr().out
    assert "no image" in out and "nan" not in out


def test_what_a_server_says_is_no_style_and_no_command(capsys):
    print_rows(("model", "reason"), [("m", "[/oops] \x1b[2J")])
    assert r"[/oops] \x1b[2J" in capsys.readouterr().out


def test_a_closed_standard_output_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(OutputError, match="standard output is closed"):
        print_json([])


@pytest.mark.parametrize(
    ("command", "option", "values"),
    [
        ("bulk", "--patience", ["nan", "-1", "inf", "1e300", "x"]),
        ("bulk", "--output", [""]),
        ("health", "--wait", ["nan", "-1", "inf"]),
        ("evaluate", "--worst", ["-1", "1.5", "x"]),
        ("classify", "--top", ["0", "-1", "x"]),
    ],
)
def test_values_that_mean_nothing_are_wrong_usage(command, option, values, capsys):
    for value in values:
        with pytest.raises(SystemExit) as end:
            main(
                [
                    command,
                    *["x"] * (command != "health"),
                    *["--output", "y"] * (command == "bulk"),
                    f"{option}={value}",
                ]
            )
        assert end.value.code == 2
        assert f"argument {option}" in capsys.readouterr().err


def printed(capsys) -> list[str]:
    """The lines that were printed, without the blanks between columns."""
    out = capsys.readouterr().out
    return [re.sub("  +", " | ", line.strip()) for line in out.splitlines() if line.strip()]


def test_tables_of_answers_to_the_letter(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    two = [Prediction(7, "a dog of the mountains", 0.52), Prediction(8, "cat", 0.48)]
    first = Answers("m", "2", True, {"/x/a.jpg": two, "b.jpg": two[1:]}, {}, ["draft", "resized"])
    print_answers([first, Answers("n", "1", False, {}, {"c.jpg": "no image"})])
    assert printed(capsys) == [
        "m · version 2 · untrained weights · inexact: draft and resized",
        "image | label | class | probability",
        f"a.jpg | 1 | a dog of the mountains | 7 | 52.00% | {'█' * 10}",
        f"2 | cat | 8 | 48.00% | {'█' * 10}",
        f"b.jpg | 1 | cat | 8 | 48.00% | {'█' * 10}",
        UNTRAINED.strip().replace("  ", " | "),
    ]
    print_csv([first])
    assert capsys.readouterr().out == (
        "model,version,image,rank,index,label,probability\n"
        "m,2,/x/a.jpg,1,7,a dog of the mountains,0.52\n"
        "m,2,/x/a.jpg,2,8,cat,0.48\n"
        "m,2,b.jpg,1,8,cat,0.48\n"
    )


def test_tables_of_accuracies_to_the_letter(capsys, monkeypatch):
    """Of four images, one class is first, three are among five; the intervals are scipy's."""
    monkeypatch.setenv("COLUMNS", "120")
    order = [[0, 1, 2, 3, 4], [0, 2, 1, 3, 4], [0, 1, 3, 4, 2], [0, 1, 2, 4, 5]]
    found = {
        str(number): [Prediction(index, f"l{index}", 0.2) for index in indices]
        for number, indices in enumerate(order)
    }
    first = Evaluation("m", "2", {str(number): number for number in range(4)}, found, {}, ["draft"])
    second = Evaluation("n", "1", first.truth | {"x": 0}, found, {"x": "no image"})
    worst = [Disagreement("a.jpg", Prediction(3, "dog", 0.5), Prediction(4, "cat", 0.256))]

    def share(hits: int) -> str:
        ends = binomtest(hits, 4).proportion_ci(0.95, "wilson")
        return f"{hits / 4:.1%} ({ends.low:.1%} – {ends.high:.1%})"

    print_evaluations([first, second], Share(3, 4), worst)
    assert printed(capsys) == [
        "accuracy (95 % interval)",
        "model | images | top-1 | top-5",
        f"m · version 2 · inexact: draft | 4 | {share(1)} | {share(3)}",
        f"n · version 1 | 4 of 5 | {share(1)} | {share(3)}",
        f"the same class first: {share(3)} of 4 images",
        "image | m | n",
        "a.jpg | dog 50.0% | cat 25.6%",
    ]
    document = evaluations_to_json([first, second], Share(3, 4), worst)
    ends = {hits: binomtest(hits, 4).proportion_ci(0.95, "wilson") for hits in (1, 3)}
    for name, hits in (("top1", 1), ("top5", 3)):
        told = document["models"][0][name]
        assert told["value"] == hits / 4
        assert told["interval"] == pytest.approx((ends[hits].low, ends[hits].high))
    assert document["agreement"]["value"] == 0.75
    assert (document["models"][0]["inexact"], document["models"][1]["version"]) == (["draft"], "1")
    assert "agreement" not in evaluations_to_json([first], None, [])
    print_evaluations([first], None, [])
    assert len(printed(capsys)) == 3


def test_facts_and_rows_to_the_letter(capsys):
    print_facts({"model": "m", "largest batch": "8"})
    print_rows(("a", "b"), [("1", "2")])
    assert printed(capsys) == ["model | m", "largest batch | 8", "a | b", "1 | 2"]
