"""Which release of tritonserver can load what."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from seresnext101_triton.server import TRITON_RELEASE
from seresnext101_triton.server.errors import ReleaseError
from seresnext101_triton.server.releases import RELEASES, release

PROJECT = Path(__file__).parents[2]


def loads(name: str, tensorrt: str, *, version_compatible: bool = False) -> bool:
    try:
        release(name).check_plan(tensorrt, version_compatible=version_compatible)
    except ReleaseError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "tensorrt", "version_compatible", "expected"),
    [
        ("26.07", "11.1.0.106", False, True),
        ("26.07", "11.1.0.105", False, False),
        ("26.07", "11.4.0.106", False, False),
        ("26.07", "11.4.0.106", True, False),  # never on an older one
        ("26.07", "11.0.0.1", True, True),
        ("26.07", "10.16.1.11", True, True),
        ("26.07", "10.16.1.11", False, False),
        ("26.05", "11.1.0.106", True, False),
        ("26.05", "10.16.1.11", False, True),
        ("26.05", "8.6.1.6", True, False),  # 8 loads on 10.0 only
        ("25.09", "10.13.3.9", False, True),  # known to three numbers
        ("25.09", "10.13.2.6", False, False),
    ],
)
def test_which_plans_a_release_loads(name, tensorrt, version_compatible, expected):
    assert loads(name, tensorrt, version_compatible=version_compatible) is expected


def test_the_message_says_what_to_install():
    with pytest.raises(
        ReleaseError,
        match=r"26.07 has TensorRT 11.1.0.106 and cannot load .* 11.4.0.1: "
        r"pip install 'tensorrt==11.1.0.106'",
    ):
        release("26.07").check_plan("11.4.0.1", version_compatible=False)
    with pytest.raises(ReleaseError, match=r"pip install 'tensorrt==10.13.3\.\*'"):
        release("25.09").check_plan("11.4.0.1", version_compatible=False)


def test_a_release_whose_tensorrt_is_not_known():
    with pytest.raises(
        ReleaseError, match="which TensorRT tritonserver 26.02 has is not known: build in its image"
    ):
        release("26.02").check_plan("10.15.0.1", version_compatible=False)


def test_an_unknown_release():
    with pytest.raises(
        ReleaseError,
        match=r"27.01 is not a known release of tritonserver: choose from 24.10, .*26.08",
    ):
        release("27.01")


def test_the_gpu_extra_installs_what_the_default_release_loads():
    extras = tomllib.loads(PROJECT.joinpath("pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert f"tensorrt=={release(TRITON_RELEASE).tensorrt}" in extras["gpu"]


def test_releases_grow():
    """Each version number of a later release is at least as large, so a typing error would show."""
    rows = [
        [
            tuple(map(int, text.split(".")))
            for text in (row.triton, row.onnxruntime, row.openvino, row.cuda)
        ]
        + [(row.opset,), (row.ir,)]
        for row in RELEASES.values()
    ]
    for earlier, later in pairwise(rows):
        assert all(
            new >= old or new == old[: len(new)] for old, new in zip(earlier, later, strict=True)
        )
    plans = [tuple(map(int, row.tensorrt.split("."))) for row in RELEASES.values() if row.tensorrt]
    assert plans == sorted(plans)


def test_what_each_release_can_read():
    """By docs/Versioning.md of ONNX Runtime and docs/operators.md of onnx-tensorrt."""
    assert list(RELEASES) == sorted(RELEASES) and len(set(RELEASES)) == len(RELEASES)
    for name, row in RELEASES.items():
        assert re.fullmatch(r"2\d\.(0[1-9]|1[0-2])", name) and row.name == name
        assert row.image == f"nvcr.io/nvidia/tritonserver:{name}-py3"
        runtime = 21 if row.onnxruntime.startswith(("1.19.", "1.20.")) else 22
        parser = 20 if row.tensorrt.startswith("10.5.") else 22
        assert (row.opset, row.ir) == (min(runtime, parser), 10)


def test_which_releases_batch_aotinductor_packages():
    refused = []
    for row in RELEASES.values():
        try:
            row.check_pt2()
        except ReleaseError as error:
            refused.append(row.name)
            assert f"tritonserver {row.name} cannot batch" in str(error)
            assert "name release 26.06" in str(error)
    assert refused == [name for name in RELEASES if name < "26.06"]
    assert refused[-1] == "26.05"


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-gpu.lock"])
def test_the_locks_name_versions_and_nothing_of_the_machine_they_were_made_on(name):
    lines = [
        line
        for line in PROJECT.joinpath(name).read_text().splitlines()
        if line and not line.lstrip().startswith("#")
    ]
    assert len(lines) > 50
    assert all(re.fullmatch(r"[a-zA-Z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines)
