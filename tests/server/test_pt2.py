"""What is refused of AOTInductor packages. `tests/export/test_pt2.py` makes and runs real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from seresnext101_triton.server import runtimes
from seresnext101_triton.server.cores import usable_cores
from seresnext101_triton.server.errors import ArtifactError
from seresnext101_triton.server.runtimes import TensorSpec, pt2
from seresnext101_triton.server.runtimes.pt2 import Pt2, has_avx2

MISSING = Path("none.pt2")
TENSORS = {
    "INPUT__0": {"dims": [3, "8", 8], "dtype": "uint8"},
    "OUTPUT__0": {"dims": [10], "dtype": "float32"},
}


def metadata(**changes: Any) -> dict[str, str]:
    return {"tensors": json.dumps(TENSORS), "max_batch": "4"} | changes


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def load(**parameters: str) -> None:
    runtimes.load("pt2", MISSING, parameters)


def test_the_threads_are_those_of_the_parameters(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("flags : avx2 \n")
    monkeypatch.setattr(pt2, "_CPU_INFO", tmp_path / "cpuinfo")
    for given, expected in (({"INTRA_OP_THREAD_COUNT": "3"}, 3), ({}, usable_cores())):
        with pytest.raises(
            ArtifactError, match="^none.pt2 cannot be loaded as AOTInductor package"
        ):
            load(**given)
        assert torch.get_num_threads() == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((f"{kind}_OP_THREAD_COUNT", "x") for kind in ("INTRA", "INTER")),
        *(
            (name, "maybe")
            for name in (
                *("CACHE_CLEANING_ENABLED", "DISABLE_CUDNN", "DISABLE_OPTIMIZED_EXECUTION"),
                *("ENABLE_WEIGHT_SHARING", "INFERENCE_MODE"),
            )
        ),
    ],
)
def test_a_parameter_that_cannot_be_read(name, value):
    with pytest.raises(ArtifactError, match=f"^parameter {name} must be "):
        load(**{name: value})


def test_a_processor_without_avx2_is_told_before_the_package_is_loaded(tmp_path, monkeypatch):
    facts = tmp_path / "cpuinfo"
    monkeypatch.setattr(pt2, "_CPU_INFO", facts)
    assert not has_avx2()
    for flags, has in (("fpu avx2 sse", True), ("fpu avx avx20 sse", False), ("xavx2", False)):
        facts.write_text(f"flags : {flags} \n")
        assert has_avx2() == has
    with pytest.raises(ArtifactError, match="none.pt2 was compiled for AVX2, which this processor"):
        load()


def test_the_metadata_say_what_a_package_takes():
    assert pt2._tensors(MISSING, metadata()) == (
        TensorSpec("INPUT__0", (3, 8, 8), dtype="uint8"),
        TensorSpec("OUTPUT__0", (10,)),
        4,
    )


@pytest.mark.parametrize(
    "changes",
    [
        *({"tensors": text} for text in ("{", "{}", "[]", "1", json.dumps({"INPUT__0": {}}))),
        {"tensors": json.dumps(TENSORS | {"INPUT__0": {"dims": ["x"], "dtype": "uint8"}})},
        {"tensors": json.dumps(TENSORS | {"OUTPUT__0": {"dims": [1], "dtype": "int64"}})},
        {"max_batch": "many"},
    ],
)
def test_metadata_that_do_not_say_it(changes):
    with pytest.raises(
        ArtifactError, match="none.pt2 does not say the shapes of its tensors: make"
    ):
        pt2._tensors(MISSING, metadata(**changes))
    for name in ("tensors", "max_batch"):
        with pytest.raises(ArtifactError):
            pt2._tensors(MISSING, {key: text for key, text in metadata().items() if key != name})


def test_the_machine_code_gets_only_what_it_takes():
    """It trusts the type and the shape. A function stands for it, which doubles its input."""
    model: Any = Pt2.__new__(Pt2)
    model.input, model.output = TensorSpec("x", (2,)), TensorSpec("y", (2,))
    model._largest = 3
    model._loader = SimpleNamespace(run=lambda tensors: [2 * tensors[0]])
    for count in (1, 3):
        batch = np.ones((count, 2), np.float32)
        batch.flags.writeable = False  # as Triton's buffers are
        np.testing.assert_array_equal(model.run(batch), 2 * batch)
    strided = np.ones((3, 4), np.float32)[:, ::2]
    np.testing.assert_array_equal(model.run(strided), 2 * strided)
    for wrong, message in (
        (np.ones((1, 2), np.float64), r"takes float32 images of \[2\], not float64 of \[2\]$"),
        (np.ones((1, 3), np.float32), r"takes float32 images of \[2\], not float32 of \[3\]$"),
        (np.ones((0, 2), np.float32), "takes batches of 1 to 3, not 0$"),
        (np.ones((4, 2), np.float32), "takes batches of 1 to 3, not 4$"),
    ):
        with pytest.raises(ArtifactError, match=message):
            model.run(wrong)
