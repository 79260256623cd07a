"""The lines of the launcher and of tritonserver as JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from seresnext101_triton.server.logs import as_json, load_times

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
        *(
            (
                f"{letter}1126 06:35:11.2 17614 main.cc:1] odd",
                {"level": level, "source": "tritonserver", "message": "odd", "at": "main.cc:1"},
            )
            for letter, level in {"W": "warning", "F": "fatal"}.items()
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


def test_how_long_models_took_to_load():
    log = [
        'I1231 23:59:58.500000 1 model_lifecycle.cc:472] "loading: a:b:12"',
        'I1231 23:59:59.000000 1 model_lifecycle.cc:472] "loading: c:1"',
        "I1231 23:59:59.100000 1 model_lifecycle.cc:839] \"successfully loaded 'gone'\"",
        "+---+",
        "I0101 00:00:00.750000 1 model_lifecycle.cc:839] \"successfully loaded 'a:b'\"",
    ]
    assert load_times(log) == {"a:b": 2.25}
