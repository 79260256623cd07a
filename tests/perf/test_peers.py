"""Other servers under the same load as Triton: each really runs, and has ended afterwards."""

from __future__ import annotations

import json

import psutil
import pytest

from seresnext101_triton.perf.cli import main
from seresnext101_triton.perf.peers.launch import PEERS, closed_loop


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_answers_behind_the_same_load(server, tmp_path, name):
    results = tmp_path / "results.jsonl"
    command = [
        "compare",
        "client:tiny_onnx",
        f"peer:{name}",
        "--url",
        server.url,
        "--peer-architecture",
        "se-resnext-tiny",
    ]
    assert (
        main(
            [
                *command,
                "--rounds",
                "2",
                "--seconds",
                "0.5",
                "--concurrency",
                "2",
                "--results",
                str(results),
            ]
        )
        == 0
    )
    turns = json.loads(results.read_text())["turns"]
    assert all(rate > 0 for each in turns.values() for rate in each)
    module = f"seresnext101_triton.perf.peers.{name}"
    assert not [
        each for each in psutil.process_iter(["cmdline"]) if module in (each.info["cmdline"] or [])
    ]


def test_one_that_is_not_known(server, capsys):
    assert main(["compare", "client:tiny_onnx", "peer:nobody", "--url", server.url]) == 1
    assert (
        "there is no peer nobody: choose from fastapi, litserve, pytriton"
        in capsys.readouterr().err
    )


def test_who_cannot_ask_ends_the_turn():
    def fail(file: bytes) -> list[int]:
        raise ValueError("503")

    with pytest.raises(ValueError, match="503"):
        closed_loop([fail], 1.0)
