"""What only a GPU can show. `make test-gpu` runs these; elsewhere they are skipped, and say why."""

from __future__ import annotations

from importlib.util import find_spec

import onnxruntime
import pytest
import torch

from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.serving import Serving
from seresnext101_triton.perf.cli import main as perf_main
from tests.conftest import QUIET, tiny_request

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no NVIDIA GPU, or no PyTorch for CUDA"
    ),
]
GPU = Serving(max_batch=4, device="gpu")
needs_cuda_onnxruntime = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="no onnxruntime-gpu",
)
needs_tensorrt = pytest.mark.skipif(
    not find_spec("tensorrt"), reason="no TensorRT: pip install '.[gpu]'"
)


def parity(root, **changes) -> dict:
    (outcome,) = export(tiny_request(root / "models", serving=GPU, **changes), QUIET)
    return outcome.manifest.parity


@pytest.mark.parametrize("fp32_squeeze", [False, True])
def test_fp16_torchscript_on_the_gpu(tmp_path, fp32_squeeze):
    found = parity(tmp_path, formats=("torchscript",), precision="fp16", fp32_squeeze=fp32_squeeze)
    assert (found["device"], found["top1"]) == ("cuda:0", 1)
    assert 1e-5 < found["relative_error"] < 1e-2


def test_fp32_torchscript_on_the_gpu(tmp_path):
    """In FP32 and not in TF32, which the convolutions of PyTorch compute in if nobody objects."""
    found = parity(tmp_path, formats=("torchscript",))
    assert (found["device"], found["top1"]) == ("cuda:0", 1)


def test_the_precisions_are_compared_on_the_gpu(tmp_path, capsys):
    options = ["--architecture", "se-resnext-tiny", "--crop", "64", "--batches", "2"]
    results = ["--rounds", "3", "--results", str(tmp_path / "results.jsonl")]
    assert perf_main(["precision", *options, *results]) == 0
    said = capsys.readouterr().out
    assert "eager TF32" in said and "TorchScript FP16" in said


@needs_cuda_onnxruntime
@pytest.mark.parametrize("format", ["onnx", "onnx_trt"])
def test_fp16_onnx_on_the_gpu(tmp_path, format):
    found = parity(tmp_path, formats=(format,), precision="fp16")
    assert (found["device"], found["top1"]) == ("cuda:0", 1)


@needs_tensorrt
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_plan_on_the_gpu(tmp_path, precision):
    found = parity(tmp_path, formats=("tensorrt",), precision=precision)
    assert (found["device"], found["top1"]) == ("cuda:0", 1)
