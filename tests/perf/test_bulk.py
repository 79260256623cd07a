"""`perf bulk`: the stream beside its parts."""

from __future__ import annotations

import json

import pytest

from seresnext101_triton.client import Answer, ImageError
from seresnext101_triton.perf.bulk import _rate
from seresnext101_triton.perf.cli import main
from seresnext101_triton.perf.errors import PerfError


def test_the_command(repository, capsys):
    options = ["--rounds", "3", "--seconds", "0.4", "--size", "500x375", "--json"]
    assert main(["bulk", "tiny_onnx", *options, "--repository", str(repository)]) == 0
    document = json.loads(capsys.readouterr().out)
    parts, stream = document["images_per_second"].values()
    assert len(parts) == len(stream) == 3 and min(*parts, *stream) > 0
    assert document["ratio"]["low"] <= document["ratio"]["value"] <= document["ratio"]["high"]


def test_a_photograph_without_an_answer_ends_the_measurement():
    answers = iter([Answer("a"), Answer("b", error=ImageError("b is broken"))])
    with pytest.raises(PerfError, match="no answer: b is broken"):
        _rate(answers, 1.0)


@pytest.mark.parametrize("size", ["500", "0x375", "-1x1", "100000x100000", "axb"])
def test_a_size_that_is_none_is_wrong_usage(size, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bulk", "tiny_onnx", f"--size={size}"])
    assert ended.value.code == 2 and "--size" in capsys.readouterr().err
