"""Which configs fit an artifact, by the rules of each backend, without a server.

`test_loading.py` shows for a part of these cases that a server refuses the same.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from seresnext101_triton.server.backends.validation import Rules, check
from seresnext101_triton.server.errors import ArtifactError
from seresnext101_triton.server.runtimes import TensorSpec

ONNX, OPENVINO, TORCHSCRIPT = Rules(exact_outputs=True), Rules(any_batch=True), Rules(names=False)


def tensor(name: str, *dims: int, **others: Any) -> dict[str, Any]:
    return {"name": name, "data_type": "TYPE_FP32", "dims": [str(axis) for axis in dims]} | others


def config(**changes: Any) -> dict[str, Any]:
    """A config that fits `artifact()`, with changes."""
    fits = {"max_batch_size": 4, "input": [tensor("x", 3, 8)], "output": [tensor("y", 10)]}
    return fits | changes


def artifact(batch: int = -1, output: int = 10, dtype: str = "float32") -> Any:
    return SimpleNamespace(
        input=TensorSpec("x", (3, 8), batch, dtype), output=TensorSpec("y", (output,), batch)
    )


PIXELS = [tensor("x", 3, 8, data_type="TYPE_UINT8")]
RESHAPED = [tensor("y", 2, 5, reshape={"shape": [10]})]
UNBATCHED = config(max_batch_size=0, input=[tensor("x", 2, 3, 8)], output=[tensor("y", 2, 10)])


@pytest.mark.parametrize(
    ("given", "model", "rules"),
    [
        (config(), artifact(), ONNX),
        (config(), artifact(), OPENVINO),
        (config(), artifact(), TORCHSCRIPT),
        (config(input=PIXELS), artifact(dtype="uint8"), ONNX),
        (config(output=RESHAPED), artifact(), ONNX),
        (config(output=[tensor("y", -1)]), artifact(output=-1), ONNX),
        (config(), artifact(output=-1), OPENVINO),
        (config(), artifact(batch=2), OPENVINO),
        (UNBATCHED, artifact(batch=2), ONNX),
        (UNBATCHED, artifact(), OPENVINO),
        (config(input=[tensor("INPUT__0", 3, 8)]), artifact(), TORCHSCRIPT),
        (
            config(input=[tensor("i", 7)], output=[tensor("o", 7)]),
            SimpleNamespace(input=TensorSpec("", ()), output=TensorSpec("", ())),
            TORCHSCRIPT,
        ),
    ],
)
def test_what_fits(given, model, rules):
    check(given, model, rules)


@pytest.mark.parametrize(
    ("given", "model", "rules", "message"),
    [
        (config(input=[]), artifact(), ONNX, "must name one input, as .* has, and names 0"),
        ({"max_batch_size": 4}, artifact(), ONNX, "must name one input, as .*, and names 0"),
        (config(output=[tensor("y", 10)] * 2), artifact(), ONNX, "one output, .*, and names 2"),
        (config(input=[tensor("z", 3, 8)]), artifact(), ONNX, "the input 'z', .* has 'x'"),
        (config(output=[tensor("z", 10)]), artifact(), OPENVINO, "the output 'z', .* has 'y'"),
        (config(input=PIXELS), artifact(), ONNX, "the input x TYPE_UINT8: it must be TYPE_FP32"),
        (config(), artifact(dtype="uint8"), ONNX, "the input x TYPE_FP32: it must be TYPE_UINT8"),
        (config(output=[tensor("y", 11)]), artifact(), ONNX, r"y the dims \[11\], .* has \[10\]"),
        (config(input=[tensor("x", 3)]), artifact(), ONNX, r"x the dims \[3\], .* has \[3, 8\]"),
        (config(input=[tensor("x", -1, 8)]), artifact(), OPENVINO, r"\[-1, 8\], .* \[3, 8\]"),
        (config(), artifact(output=-1), ONNX, r"y the dims \[10\], .* has \[-1\]"),
        (config(output=[tensor("y", -1)]), artifact(), ONNX, r"y the dims \[-1\], .* \[10\]"),
        (
            config(),
            artifact(batch=2),
            ONNX,
            r"x of the artifact is fixed to a batch of 2: leave .* dims: \[2, 3, 8\]",
        ),
        (UNBATCHED, artifact(batch=3), OPENVINO, r"\[2, 3, 8\], .* has \[3, 3, 8\]"),
        (UNBATCHED, artifact(), ONNX, r"y the dims \[2, 10\], .* has \[-1, 10\]"),
        (config(input=[tensor("i", 7)]), artifact(), TORCHSCRIPT, r"i the dims \[7\]"),
    ],
)
def test_what_does_not_fit(given, model, rules, message):
    with pytest.raises(ArtifactError, match=message):
        check(given, model, rules)
