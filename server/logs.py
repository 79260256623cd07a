"""The lines that `python -m server` writes, as text or as JSON, and those of tritonserver's log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

# A line of tritonserver's log: level, month and day, time, thread, source, text (triton_glog).
_TRITON = re.compile(
    r"([IWEF])(\d\d)(\d\d) (\d\d:\d\d:\d\d\.\d+) \d+ ([\w./-]+:\d+)\] (.*)", flags=re.DOTALL
)
_LOADING = re.compile(r"loading: (.+):\d+")
_LOADED = re.compile(r"successfully loaded '(.+)'")
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "fatal"}
_ERROR = "error: "


def as_json(line: str, now: datetime | None = None) -> str:
    """A line of the launcher, or of the server's log, as one JSON object.

    Its keys are `time` (UTC, ISO 8601), `level`, `source` (`launcher` or `tritonserver`),
    `message`, and `at`, a place in the server's code.

    Args:
        line: The line. It may have line breaks.
        now: The time; None means the current time.
    """
    now = now or datetime.now(timezone.utc)  # noqa: UP017  (Python 3.10)
    found = _TRITON.fullmatch(line)
    document = {"time": now.isoformat(timespec="milliseconds"), "level": "info"}
    if found:
        level, _, _, _, place, text = found.groups()
        document |= {"level": _LEVELS[level], "source": "tritonserver"}
        document |= {"message": _unquoted(text), "at": place}
    elif line.startswith(_ERROR):
        document |= {"level": "error", "source": "launcher"}
        document["message"] = line.removeprefix(_ERROR)
    else:
        document |= {"source": "launcher", "message": line.strip()}
    return json.dumps(document, ensure_ascii=False)


def load_times(log: Iterable[str]) -> dict[str, float]:
    """How long tritonserver took to load each model, in seconds, as far as its log tells."""
    began: dict[str, timedelta] = {}
    took = {}
    for line in log:
        if not (found := _TRITON.fullmatch(line)):
            continue
        hour, minute, second = found[4].split(":")
        at = timedelta(hours=int(hour), minutes=int(minute), seconds=float(second))
        text = _unquoted(found[6])
        if loading := _LOADING.fullmatch(text):
            began[loading[1]] = at
        elif (loaded := _LOADED.fullmatch(text)) and loaded[1] in began:
            took[loaded[1]] = (at - began[loaded[1]]) % timedelta(days=1) / timedelta(seconds=1)
    return took


def _unquoted(text: str) -> str:
    """Triton writes most of its messages as JSON strings."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str) else text
