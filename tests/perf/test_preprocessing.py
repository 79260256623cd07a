"""Pictures to tensors: that all ways are measured, and which give torchvision's bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch
from PIL import Image

from seresnext101_triton.perf.preprocessing import SIZES, _one_core


def test_every_way_is_measured_at_every_size():
    """In a process of its own, since it keeps to one core."""
    before = os.sched_getaffinity(0)
    command = [sys.executable, "-m", "perf", "preprocessing", "--turns", "1", "--json"]
    results = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert os.sched_getaffinity(0) == before
    assert [tuple(result["size"]) for result in results[::4]] == list(SIZES)
    assert {result["name"]: result["equal"] for result in results} == {
        "torchvision": True,
        "NVIDIA's helper": True,
        "client": True,
        "client, draft": False,
    }
    assert all(result["median_ms"] > 0 for result in results)


def test_what_a_measurement_sets_it_restores():
    core = Image.core  # type: ignore[attr-defined]
    before = os.sched_getaffinity(0), torch.get_num_threads(), core.get_blocks_max()
    with _one_core():
        assert len(os.sched_getaffinity(0)) == torch.get_num_threads() == 1
        core.set_blocks_max(3)
    assert (os.sched_getaffinity(0), torch.get_num_threads(), core.get_blocks_max()) == before
