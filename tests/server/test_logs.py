"""The lines of the launcher and of tritonserver as JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from seresnext101_triton.server.logs import as_json

NOW = datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)
TIME = {"time": "2026-01-02T03:04:05.678+00:00"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            'E1126 06:35:11.215737 17614 backend_model.cc:692] "ERROR: no \\"x\\"\\nAt: y"',
            {
                "level": "error",
                "source": "tritonserver",
                "message": 'ERROR: no "x"\nAt: y',
                "at": "backend_model.cc:692",
            },
        ),
        (
            "I1126 06:35:11.215737 17614 grpc_server.cc:1] Started at 0.0.0.0:8001",
            {
                "level": "info",
                "source": "tritonserver",
                "message": "Started at 0.0.0.0:8001",
                "at": "grpc_server.cc:1",
            },
        ),
        (
            "  m version 1: ready",
            {"level": "info", "source": "launcher", "message": "m version 1: ready"},
        ),
        ("error: é\nb", {"level": "error", "source": "launcher", "message": "é\nb"}),
    ],
)
def test_a_line_is_one_object(line, expected):
    text = as_json(line, NOW)
    assert "\n" not in text
    assert json.loads(text) == TIME | expected
