"""Waiting for what happens soon, but not at once."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], timeout_s: float = 120) -> bool:
    """Whether a condition comes true. The time is generous, for a loaded machine."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()
