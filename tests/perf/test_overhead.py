"""The cost of serving: that it is measured, and on equal answers.

The values are left to the benchmarks.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from seresnext101_triton.perf.cli import main
from seresnext101_triton.perf.overhead import Overhead


def test_every_model_is_measured_by_turns_and_answers_equally(repository, capsys):
    assert main(["overhead", "--repository", str(repository), "--rounds", "3", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["model"] for result in results] == [
        "logits_torchscript",
        "tiny_onnx",
        "tiny_openvino",
        "tiny_torchscript",
    ]
    for result in results:
        assert result["equal"] is True
        assert len(result["alone_ms"]) == len(result["served_ms"]) == 3
        assert min(result["alone_ms"] + result["served_ms"]) > 0
        low, high = result["added_ms_interval"]
        assert low <= result["added_ms"] <= high


def test_what_is_added_is_the_median_difference_with_an_interval():
    generator = np.random.default_rng(0)
    drift = generator.uniform(100, 200, 400)  # the machine's, common to both
    result = Overhead(
        "m", drift.tolist(), (drift + generator.normal(3, 1, 400)).tolist(), equal=True
    )
    middle, low, high = result.added
    assert middle == pytest.approx(3, abs=0.2)
    assert low < middle < high
    assert high - low < 0.5


def test_a_repository_that_cannot_be_served(tmp_path, capsys):
    assert main(["overhead", "--repository", str(tmp_path)]) == 1
    assert "holds no exported model" in capsys.readouterr().err
