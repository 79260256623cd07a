"""What a precision is worth: on a CPU here, which shows that it is measured and not how much."""

from __future__ import annotations

import json

import pytest
import torch

from seresnext101_triton.perf.cli import main

TINY = ["precision", "--architecture", "se-resnext-tiny", "--crop", "64", "--turns", "2"]


def test_every_way_is_measured_at_every_batch_size(tmp_path, capsys):
    assert (
        main(
            [
                *TINY,
                "--device",
                "cpu",
                "--batches",
                "1,2",
                "--results",
                str(tmp_path / "results.jsonl"),
            ]
        )
        == 0
    )
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    ways = [
        (result["name"], result["batch"], len(result["images_per_second"]))
        for result in content["images_per_second"]
    ]
    assert ways == [
        (name, batch, 2)
        for batch in (1, 2)
        for name in ("eager FP32", "eager FP16", "TorchScript FP16")
    ]
    assert all(
        rate > 0 for result in content["images_per_second"] for rate in result["images_per_second"]
    )
    assert (content["device"], content["torch"]) == ("cpu", torch.__version__)
    assert f"written to {path}" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu(tmp_path, capsys):
    assert main([*TINY, "--results", str(tmp_path / "results.jsonl")]) == 1
    err = capsys.readouterr().err
    assert "no NVIDIA GPU" in err and "--device cpu measures here" in err
    assert not list(tmp_path.iterdir())
