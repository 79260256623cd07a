"""Other servers under the same load as Triton: each really runs, and has ended afterwards."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from seresnext101_triton.perf.cli import main
from seresnext101_triton.perf.peers.launch import PEERS, closed_loop

RAY = Path(sys.prefix, "ray")


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_answers_behind_the_same_load(server, tmp_path, monkeypatch, name):
    if name == "rayserve":  # Ray is installed beside the environment
        monkeypatch.syspath_prepend(RAY)
        monkeypatch.setenv("PYTHONPATH", str(RAY), prepend=os.pathsep)
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
                "3",
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
        each for each in psutil.Process().children(recursive=True) if module in each.cmdline()
    ]


def test_the_artifact_of_a_model_in_a_peer_and_the_latency(server, repository, tmp_path):
    results = tmp_path / "results.jsonl"
    command = [
        "compare",
        "client:tiny_onnx",
        "peer:fastapi/tiny_onnx",
        "peer:fastapi/tiny_openvino",
    ]
    options = ["--rounds", "3", "--seconds", "0.5", "--concurrency", "3", "--measure", "p99"]
    files = ["--repository", str(repository), "--results", str(results)]
    assert main([*command, *options, "--url", server.url, *files]) == 0
    document = json.loads(results.read_text())
    assert document["measure"] == "p99" and set(document["turns"]) == set(command[1:])
    assert all(0 < p99 < 60_000 for each in document["turns"].values() for p99 in each)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["peer:fastapi/tiny_torchscript"], "they serve .xml or .onnx files"),
        (["peer:fastapi/nothing"], "holds no model nothing"),
        (["raw:tiny_onnx", "--measure", "p99"], "raw:tiny_onnx answers no requests"),
        (["client:tiny_onnx", "--measure", "p99", "--fail-under", "1"], "neither with saved runs"),
    ],
)
def test_what_cannot_be_compared(server, repository, capsys, arguments, reason):
    place = ["--url", server.url, "--repository", str(repository)]
    assert main(["compare", "client:tiny_onnx", *arguments, *place]) != 0
    assert reason in capsys.readouterr().err


def test_the_loop_measures_what_its_users_wait_for():
    def answer(file: bytes) -> list[int]:
        time.sleep(0.05)
        return [0]

    loop = closed_loop([answer, answer], 0.5)
    assert loop.p99_ms >= 50
    assert 0 < loop.throughput <= 40


def test_one_that_is_not_known(server, capsys):
    assert main(["compare", "client:tiny_onnx", "peer:nobody", "--url", server.url]) == 2
    assert (
        "there is no peer nobody: choose from fastapi, litserve, pytriton, rayserve"
        in capsys.readouterr().err
    )


def test_who_cannot_ask_ends_the_turn():
    def fail(file: bytes) -> list[int]:
        raise ValueError("503")

    with pytest.raises(ValueError, match="503"):
        closed_loop([fail], 1.0)
