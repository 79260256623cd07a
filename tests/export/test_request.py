"""What the options of `python -m export` become, and which do not go together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2 as pb

from seresnext101_triton.client.contract import NORMALISED, PIXELS, OutputKind, Preprocessing
from seresnext101_triton.export import pipeline
from seresnext101_triton.export.cli import _possible, main, request_of
from seresnext101_triton.export.errors import MissingHardware, OptionError
from seresnext101_triton.export.network import ARCHITECTURES
from seresnext101_triton.export.options import parse
from seresnext101_triton.export.quantization import Quantization
from seresnext101_triton.export.request import Request
from seresnext101_triton.export.serving import ImageInput, Serving
from seresnext101_triton.server import TRITON_RELEASE


def requested(*arguments: str) -> Request:
    return request_of(parse(["--weights", "seeded", *arguments]))


def test_without_options_it_is_nvidias_network_with_its_own_contract():
    plain = requested()
    assert (plain.weights, plain.repository) == ("seeded", Path("model_repository"))
    assert [variant.name for variant in plain.variants] == ["torchscript", "onnx"]
    assert plain.model(plain.variants[0]) == "seresnext101_torchscript"
    assert plain.architecture == ARCHITECTURES["se-resnext101-32x4d"]
    assert plain.architecture.classes == 1000
    # NVIDIA's own: shorter side to 256, centre 224, the mean and deviation of ImageNet.
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert plain.preprocessing == Preprocessing(256, 224, "bilinear", mean, std, NORMALISED)
    assert (plain.output, plain.serving) == (OutputKind.PROBABILITIES, Serving(max_batch=8))
    assert (plain.target, plain.labels, plain.allow_error) == (TRITON_RELEASE, None, None)
    assert not (plain.ema or plain.force or plain.fp32_squeeze)
    assert plain.quantization is None and plain.image_input is None and plain.precision is None


def test_every_option_reaches_the_request(tmp_path):
    told = requested(
        *("--repository", "r", "--formats", "onnx", "--name", "n", "--output", "logits"),
        *("--architecture", "se-resnext-tiny", "--classes", "7", "--labels", "l.txt"),
        *("--crop", "64", "--resize", "80", "--interpolation", "bicubic", "--input", "uint8"),
        *("--mean", "0.1,0.2,0.3", "--std", "0.4,0.5,0.6", "--max-batch", "3"),
        *("--device", "cpu", "--instances", "2", "--threads", "4", "--queue-size", "5"),
        *("--queue-timeout", "6", "--queue-delay", "9", "--response-cache"),
        *("--image-input", "uint8", "--image-instances", "11", "--target", "24.10"),
        *("--ema", "--force", "--allow-error", "0.5", "--precision", "int8"),
        *("--calibration", str(tmp_path), "--calibration-method", "minmax"),
        *("--keep-fp32", "a,,b", "--truth", "t.csv", "--min-agreement", "0.25"),
    )
    assert (told.repository, told.name, told.labels) == (Path("r"), "n", "l.txt")
    assert told.architecture == replace(ARCHITECTURES["se-resnext-tiny"], classes=7)
    assert told.preprocessing == Preprocessing(
        80, 64, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), PIXELS
    )
    assert told.serving == Serving(3, "cpu", 2, 4, 5, 6, 9, response_cache=True)
    assert told.image_input == ImageInput("uint8", 11)
    assert told.quantization == Quantization(tmp_path, "minmax", ("a", "b"), Path("t.csv"), 0.25)
    assert (told.output, told.target, told.allow_error) == (OutputKind.LOGITS, "24.10", 0.5)
    assert told.ema and told.force
    (variant,) = told.variants
    assert told.model(variant) == "n_onnx_int8_uint8"


def test_short_forms():
    assert requested("--crop", "100").preprocessing.resize == 132
    assert requested("--image-input").image_input == ImageInput("bytes", 0)
    assert requested("--image-input").image_input != ImageInput("uint8", 0)
    half = requested("--formats", "onnx,,onnx", "--precision", "fp16", "--fp32-squeeze")
    (variant,) = half.variants
    assert variant.precision.fp32_squeeze and half.model(variant).startswith("seresnext101_onnx_")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "0"], "`classes` must be at least 1, not 0"),
        (["--weights", "x.pth", "--classes", "5"], "`classes` is for seeded weights"),
        (["--image-instances", "1"], "`image_instances` goes with `image_input`: name both"),
        (["--image-input", "--image-instances", "-1"], "`image_instances` must be 0 to 1024"),
        (
            ["--image-input", "--image-instances", "1025"],
            "`image_instances` must be 0 to 1024, not 1025",
        ),
        (["--formats", ","], "no format: choose from torchscript, "),
        (["--formats", "onnx,x,y"], "unknown format x, y: choose from torchscript, "),
        (["--name", "a b"], "`name` 'a b' may have ASCII letters"),
        (["--name", "é"], "`name` 'é' may have ASCII letters"),
        (["--name", "n" * 238], "`name` is too long: n{20}..._torchscript would be over 255"),
        (["--labels", " "], "`labels` is empty: name a file with one class a line, or `none`"),
        (["--precision", "int8", "--formats", "openvino"], "`precision=int8` and `calibration=DI"),
        (["--calibration", "d", "--formats", "onnx"], "`precision=int8` and `calibration=DIR`"),
        (["--fp32-squeeze"], "`fp32_squeeze` is for FP16: name it with `precision=fp16`"),
        *(
            (["--allow-error", value], f"`allow_error` must be a number above 0, not {value}")
            for value in ("0.0", "-1.0", "inf", "nan")
        ),
        (["--max-batch", "0"], "`max_batch` must be at least 1, not 0"),
        (["--max-batch", str(1 << 31)], "`max_batch` must be at most 2147483647"),
        *(
            ([f"--{name.replace('_', '-')}", "-1"], f"`{name}.*` must not be negative, as -1 is")
            for name in ("instances", "threads", "queue_size", "queue_timeout", "queue_delay")
        ),
        (["--threads", "1025"], "`threads` must be at most 1024, not 1025"),
        (["--crop", "0"], "preprocessing: crop 0 must be between 1 and resize 32"),
    ],
)
def test_what_does_not_go_together_is_told(arguments, message):
    with pytest.raises(OptionError, match=f"^{message}"):
        requested(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--name", "n" * 237],
        ["--allow-error", "1e-9"],
        ["--max-batch", str((1 << 31) - 1), "--threads", "1024"],
        ["--image-input", "--image-instances", "1024"],
        ["--classes", "1"],
    ],
)
def test_what_is_just_possible(arguments):
    requested(*arguments)


@pytest.mark.parametrize("text", ["1,2", "1,2,3,4", "a,b,c", "", "1;2;3"])
def test_a_mean_of_other_than_three_numbers(text, capsys):
    with pytest.raises(SystemExit) as end:
        requested("--mean", text)
    assert end.value.code == 2
    assert f"{text!r} is not three numbers, R,G,B" in capsys.readouterr().err


def test_what_this_machine_cannot_make_is_left_out(monkeypatch):
    request = requested("--formats", "torchscript,onnx,openvino")
    monkeypatch.setattr(pipeline, "lacking", lambda _: {})
    whole, line = _possible(request)
    assert (whole.variants, line) == (request.variants, "")
    lacks = {"torchscript": "a GPU", "openvino": "a disk"}
    monkeypatch.setattr(pipeline, "lacking", lambda _: lacks)
    rest, line = _possible(request)
    assert [variant.name for variant in rest.variants] == ["onnx"]
    assert line == (
        "left out: torchscript, because this machine lacks a GPU; left out: openvino, because this "
        "machine lacks a disk"
    )
    lacks["onnx"] = "time"
    with pytest.raises(MissingHardware, match="left out: onnx, because this machine lacks time"):
        _possible(request)


@pytest.fixture
def answered(monkeypatch, tmp_path, capsys):
    """Runs the command with an exporter that does as it is told."""

    def run(export, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(pipeline, "export", export)
        code = main(["--weights", "seeded", "--repository", str(tmp_path), "--quiet", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_a_part_is_told_on_standard_error_and_by_the_exit_code(answered, monkeypatch):
    asked: list[Request] = []

    def export(request, _reporter):
        asked.append(request)
        return []

    formats = ["--formats", "torchscript,onnx", "--json"]
    assert answered(export, *formats, "--partial") == (0, "[]\n", "")
    monkeypatch.setattr(pipeline, "lacking", lambda _: {"onnx": "a licence"})
    line = "left out: onnx, because this machine lacks a licence\n"
    assert answered(export, *formats, "--partial") == (3, "[]\n", line)
    assert answered(export, *formats) == (0, "[]\n", "")
    assert [len(request.formats) for request in asked] == [2, 1, 2]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] can't allocate memory: 9 bytes")]
)
def test_too_little_memory_is_one_line_with_options(answered, error):
    def export(_request, _reporter):
        raise error

    code, out, err = answered(export)
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert err.startswith("error: ") and "memory" in err and "--max-batch" in err and "`" not in err


def test_any_other_error_is_a_bug(answered):
    def export(_request, _reporter):
        raise RuntimeError("odd")

    with pytest.raises(RuntimeError, match="odd"):
        answered(export)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("max_batch", lambda value: pb.ModelConfig(max_batch_size=value)),
        ("instances", lambda value: pb.ModelInstanceGroup(count=value)),
        ("queue_size", lambda value: pb.ModelQueuePolicy(max_queue_size=value)),
        (
            "queue_timeout_ms",
            lambda value: pb.ModelQueuePolicy(default_timeout_microseconds=1000 * value),
        ),
        (
            "queue_delay_us",
            lambda value: pb.ModelDynamicBatching(max_queue_delay_microseconds=value),
        ),
    ],
)
def test_a_number_may_be_as_large_as_tritons_config_can_hold(name, field):
    def is_refused(value: int) -> bool:
        try:
            field(value)
        except ValueError:
            return True
        return False

    low, high = 1, 1 << 80  # The largest that fits is looked for by halving.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_refused(middle) else (middle, high)
    fits: dict[str, Any] = {name: low}
    assert getattr(Serving(**fits), name) == low
    with pytest.raises(OptionError, match=f"`{name}` must be at most {low}, not {high}"):
        Serving(**{name: high})  # type: ignore[arg-type]
