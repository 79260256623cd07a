"""Pictures to tensors: that all ways are measured, and which give torchvision's bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch
from PIL import Image

from seresnext101_triton.perf.cli import main
from seresnext101_triton.perf.preprocessing import _one_core


def test_every_way_is_measured_at_every_size():
    """In a process of its own, since it keeps to one core."""
    before = os.sched_getaffinity(0)
    command = [sys.executable, "-m", "perf", "preprocessing", "--turns", "1", "--json"]
    command += ["--size", "600x400", "--size", "1100x1100"]
    results = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert os.sched_getaffinity(0) == before
    assert [tuple(result["size"]) for result in results[::6]] == [(600, 400), (1100, 1100)]
    assert {result["name"]: result["equal"] for result in results} == {
        "torchvision": True,
        "NVIDIA's helper": True,
        "client": True,
        "client, draft": False,
        "client, fast": False,
        "client, draft, fast": False,
    }
    differences = {result["name"]: result["levels"] for result in results if not result["equal"]}
    assert differences["client, fast"] <= 1 < differences["client, draft"]
    assert all(result["median_ms"] > 0 for result in results)


def test_what_a_measurement_sets_it_restores():
    core = Image.core  # type: ignore[attr-defined]
    before = os.sched_getaffinity(0), torch.get_num_threads(), core.get_blocks_max()
    with _one_core():
        assert len(os.sched_getaffinity(0)) == torch.get_num_threads() == 1
        core.set_blocks_max(3)
    assert (os.sched_getaffinity(0), torch.get_num_threads(), core.get_blocks_max()) == before


def test_what_inexact_options_change_in_the_answers_of_a_model(repository, capsys):
    command = ["preprocessing", "--model", "tiny_onnx", "--images", "3"]
    assert main([*command, "--repository", str(repository), "--json"]) == 0
    effects = json.loads(capsys.readouterr().out)
    assert [effect["inexact"] for effect in effects] == [["draft"], ["fast"], ["draft", "fast"]]
    draft, fast, both = (effect["change"] for effect in effects)
    assert 0 < fast < draft and fast < both
    assert all(effect["images"] == 3 >= effect["same_first"] for effect in effects)
