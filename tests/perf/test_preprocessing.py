"""Pictures to tensors: that all ways are measured, and which give torchvision's bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from perf.preprocessing import SIZES


def test_every_way_is_measured_at_every_size():
    """In a process of its own, since it keeps to one core."""
    command = [sys.executable, "-m", "perf", "preprocessing", "--turns", "1", "--json"]
    results = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(os.sched_getaffinity(0)) > 1 or os.cpu_count() == 1
    assert [tuple(result["size"]) for result in results[::4]] == list(SIZES)
    assert {result["name"]: result["equal"] for result in results} == {
        "torchvision": True,
        "NVIDIA's helper": True,
        "client": True,
        "client, draft": False,
    }
    assert all(result["median_ms"] > 0 for result in results)
