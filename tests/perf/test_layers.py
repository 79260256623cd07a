"""`perf layers`: its counts beside those of PyTorch's own modules."""

from __future__ import annotations

import json

import pytest
import torch

from seresnext101_triton.export.network import ARCHITECTURES
from seresnext101_triton.export.weights.seeded import seeded_network
from seresnext101_triton.perf.cli import main
from seresnext101_triton.perf.layers import profile
from seresnext101_triton.perf.published import PublishedModel


def multiply_adds(crop: int) -> tuple[int, int]:
    """All multiply-adds of the small network for one image, and those of grouped convolutions."""
    network = seeded_network(ARCHITECTURES["se-resnext-tiny"], 0).eval()
    counted: list[tuple[int, int]] = []

    def count(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        macs = output[0].numel() * module.weight[0].numel()  # type: ignore[index]
        counted.append((macs, macs if getattr(module, "groups", 1) > 1 else 0))

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 3, crop, crop))
    every, grouped = zip(*counted, strict=True)
    return sum(every), sum(grouped)


@pytest.mark.parametrize("batch", [1, 2])
def test_every_multiply_add_is_counted_once(repository, batch):
    found = profile(repository, "tiny_openvino", batch, 0.1)
    crop = PublishedModel.find(repository, "tiny_openvino").preprocessing.crop
    every, grouped = multiply_adds(crop)
    assert sum(kind.macs for kind in found.kinds) == every
    assert [kind.macs for kind in found.kinds if "grouped" in kind.kind] == [grouped]
    assert 0 < found.limit_ms <= sum(kind.ms for kind in found.kinds)
    assert found.run_ms > 0


def test_the_command(repository, capsys):
    place = ["--repository", str(repository), "--seconds", "0.1"]
    assert main(["layers", "tiny_openvino", "--json", *place]) == 0
    document = json.loads(capsys.readouterr().out)
    kinds = {kind["kind"]: kind for kind in document["kinds"]}
    assert kinds["classifier"]["count"] == 1
    assert kinds["convolutions 1x1"]["types"] == ["f32"]
    assert main(["layers", "tiny_openvino", *place]) == 0
    assert "multiply-adds and takes" in capsys.readouterr().out
    assert main(["layers", "tiny_onnx", *place]) == 1
    assert "tiny_onnx is of the format onnx" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["layers", "tiny_openvino", "--batch", "10000000000", *place])
    assert "must be at most 4096, not '10000000000'" in capsys.readouterr().err
