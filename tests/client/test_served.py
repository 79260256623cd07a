"""How a config tells the use of a model, and which configs are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from seresnext101_triton.client.contract import PIXELS, OutputKind, Preprocessing
from seresnext101_triton.client.errors import ContractError
from seresnext101_triton.client.served import ServedModel, read_served_model, version_order

TENSOR = 'name: "in" data_type: TYPE_FP32 dims: [3, 8, 8]'
CONFIG = f"""
    backend: "onnxruntime"  max_batch_size: 4
    input {{ {TENSOR} }}
    output {{ name: "out" data_type: TYPE_FP32 dims: [1000] }}
    instance_group {{ count: 2 }}  instance_group {{ count: 3 }}
"""
CONTRACT = Preprocessing(10, 8)


def read(
    text: str = CONFIG,
    more: Mapping[str, str] = {},
    contract: Preprocessing = CONTRACT,
    versions: Sequence[str] = ("9", "10"),
) -> ServedModel:
    """The model of a config with the parameters of a contract, and with more parameters."""
    config = text_format.Parse(text, pb.ModelConfig())
    for name, value in (contract.to_parameters() | {"output.kind": "logits"} | dict(more)).items():
        config.parameters[name].string_value = value
    return read_served_model("m", versions, config)


def test_what_a_config_says():
    known = {"weights": "seeded", "parity.allow_error": "0.5", "parity.unproven": "true"}
    assert read(CONFIG, known) == ServedModel(
        name="m",
        version="10",
        input="in",
        dtype=np.dtype(np.float32),
        output="out",
        classes=1000,
        max_batch=4,
        instances=5,
        output_kind=OutputKind.LOGITS,
        preprocessing=CONTRACT,
        untrained=True,
        platform="onnxruntime",
        allowed_error="0.5",
        unproven=True,
    )
    least = read(CONFIG.partition("instance_group")[0])
    assert (least.instances, least.untrained, least.unproven) == (1, False, False)
    assert (least.allowed_error, least.image_input, least.axes) == ("", "", ("3", "8", "8"))


def test_a_version_on_trial_is_taken_only_if_it_is_named():
    assert read(CONFIG, {"canary": "10"}).version == "9"
    assert read(CONFIG, {"canary": "10"}, versions=["10"]).version == "10"


def test_what_takes_image_files():
    files = CONFIG.replace(TENSOR, 'name: "in" data_type: TYPE_STRING dims: [1]')
    model = read(files, {"image.input": "bytes"})
    assert (model.image_input, model.axes, model.dtype) == ("bytes", ("1",), np.dtype(object))
    files = CONFIG.replace(TENSOR, 'name: "in" data_type: TYPE_UINT8 dims: [-1]')
    model = read(files, {"image.input": "uint8"})
    assert (model.image_input, model.axes, model.dtype) == ("uint8", ("length",), np.dtype("u1"))


def test_what_takes_pixels():
    pixels = CONFIG.replace("TYPE_FP32 dims: [3, 8, 8]", "TYPE_UINT8 dims: [8, 8, 3]")
    model = read(pixels, contract=Preprocessing(10, 8, layout=PIXELS))
    assert (model.axes, model.dtype) == (("8", "8", "3"), np.dtype(np.uint8))
    half = read(CONFIG.replace("TYPE_FP32 dims: [3", "TYPE_FP16 dims: [3"))
    assert half.dtype == np.dtype(np.float16)


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        (f"{CONFIG} input {{ {TENSOR} }}", {}, "it has 2 inputs and 1 outputs, not one each"),
        (CONFIG.replace("output {", "input {"), {}, "it has 2 inputs and 0 outputs"),
        (f"{CONFIG} output {{ name: 'b' }}", {}, "it has 1 inputs and 2 outputs"),
        (CONFIG, {"image.input": "bytes"}, "its input is TYPE_FP32, .* 'image.input' is 'bytes'"),
        (CONFIG, {"image.input": "x"}, "its input is TYPE_FP32, .* is 'x'"),
        (CONFIG.replace("FP32", "INT8", 1), {}, "its input is TYPE_INT8, not FP32, FP16 or UINT8"),
        (CONFIG.replace("[1000]", "[]"), {}, r"dims \[\] do not say how many classes"),
        (CONFIG.replace("[1000]", "[-1]"), {}, r"dims \[-1\] do not say how many classes"),
        (CONFIG.replace("[1000]", "[0]"), {}, r"dims \[0\] do not say how many classes"),
        (
            *(CONFIG, {"preprocessing.layout": PIXELS}),
            f"its input is FP32, .* 'preprocessing.layout' is {PIXELS}, which is for uint8",
        ),
        (
            *(CONFIG.replace("FP32", "UINT8", 1), {}),
            "its input is UINT8, and its parameter .* which is for float32",
        ),
    ],
)
def test_what_does_not_follow_the_contract(text, more, message):
    with pytest.raises(ContractError, match=message):
        read(text, more)


def test_a_model_without_a_version():
    with pytest.raises(ContractError, match="the server names no version of it"):
        read(versions=())


def test_the_order_of_versions():
    names = ["10", "9", "stable", "2", "0", "b", "1" * 21]
    assert sorted(names, key=version_order) == ["1" * 21, "b", "stable", "0", "2", "9", "10"]


def test_one_class_is_enough():
    assert read(CONFIG.replace("[1000]", "[1, 1]")).classes == 1
