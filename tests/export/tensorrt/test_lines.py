"""The lines that build plans, and the options and versions that go into them."""

from __future__ import annotations

import argparse
import os
import shutil
import stat
from pathlib import Path

import pytest

from seresnext101_triton.export.errors import BuildError, OptionError
from seresnext101_triton.export.precision import FP16
from seresnext101_triton.export.tensorrt import container, options, plan, trtexec
from seresnext101_triton.export.tensorrt.plan import BuildSpec, Profile, Tuning
from tests.export.tensorrt.conftest import H100

PACKAGE = Path(container.__file__).parents[2]


def spec(folder: Path, tuning: Tuning) -> BuildSpec:
    profile = Profile("INPUT__0", (3, 224, 224), 4, 8)
    onnx, target = folder / "in" / "model.onnx", folder / "out" / "model.plan"
    return BuildSpec(onnx, target, profile, tuning, FP16, folder / "cache")


def test_trtexec_is_told_all_that_matters(tmp_path):
    built = spec(tmp_path, Tuning())
    layers, cache = tmp_path / "layers.json", tmp_path / "sm90.cache"
    plain = [
        "/bin/trtexec",
        f"--onnx={tmp_path}/in/model.onnx",
        f"--saveEngine={tmp_path}/out/model.plan",
        "--minShapes=INPUT__0:1x3x224x224",
        "--optShapes=INPUT__0:4x3x224x224",
        "--maxShapes=INPUT__0:8x3x224x224",
        "--stronglyTyped",
        "--noTF32",
        "--builderOptimizationLevel=3",
        "--hardwareCompatibilityLevel=none",
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={layers}",
        f"--timingCacheFile={cache}",
        "--skipInference",
    ]
    assert trtexec.command(Path("/bin/trtexec"), built, layers, cache) == plain

    tuned = spec(tmp_path, Tuning(2, 256, 5, version_compatible=True, hardware="ampere+"))
    more = trtexec.command(Path("/bin/trtexec"), tuned, layers, cache)
    assert sorted(set(more) - set(plain)) == [
        "--builderOptimizationLevel=5",
        "--hardwareCompatibilityLevel=ampere+",
        "--memPoolSize=workspace:256",
        "--versionCompatible",
    ]
    same = spec(tmp_path, Tuning(hardware="same-capability"))
    level = "--hardwareCompatibilityLevel=sameComputeCapability"
    assert level in trtexec.command(Path("/bin/trtexec"), same, layers, cache)


def test_docker_is_told_all_that_matters(tmp_path):
    """The package is read-only, the ONNX too, and what is written belongs to this user."""
    line = container.command("nvcr.io/x:1", spec(tmp_path, Tuning(2, 256, 5, hardware="ampere+")))
    place = line.index("nvcr.io/x:1")
    assert line[:5] == [
        "docker",
        "run",
        "--rm",
        "--gpus=all",
        f"--user={os.getuid()}:{os.getgid()}",
    ]
    assert line[5:place] == [
        *(
            f"--volume={(PACKAGE / part).resolve()}:/toolkit/seresnext101_triton/{part}:ro"
            for part in ("__init__.py", "client", "export", "server")
        ),
        f"--volume={tmp_path}/in:/onnx:ro",
        f"--volume={tmp_path}/out:/plan",
        f"--volume={tmp_path}/cache:/cache",
        "--workdir=/toolkit",
        "--env=PYTHONDONTWRITEBYTECODE=1",
        "--entrypoint=python3",
    ]
    inside = [
        *("-m", "seresnext101_triton.export.tensorrt", "/onnx/model.onnx", "/plan/model.plan"),
        *("--precision=fp16", "--input=INPUT__0", "--dims=3x224x224", "--max-batch=8"),
        *("--opt-batch=4", "--workspace=256", "--builder-level=5", "--hardware=ampere+"),
    ]
    assert line[place + 1 :] == [*inside, "--cache=/cache"]
    compatible = spec(tmp_path, Tuning(version_compatible=True))
    assert container.command("i", compatible)[-2:] == ["--version-compatible", "--cache=/cache"]


def test_where_trtexec_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(trtexec, "IMAGE_PATH", tmp_path / "image" / "trtexec")
    assert trtexec.find() is None
    trtexec.IMAGE_PATH.parent.mkdir()
    trtexec.IMAGE_PATH.touch()
    assert trtexec.find() == trtexec.IMAGE_PATH
    shutil.copy("/bin/true", tmp_path / "trtexec")
    assert trtexec.find() == tmp_path / "trtexec"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("exit 0", "ended with code 0 and built no plan: $"),
        ("echo a plan >&2; exit 3", "ended with code 3 and built no plan: a plan$"),
        ('echo "x [E] one"; echo "y [E] two"; exit 1', "code 1 and built no plan: one; two$"),
    ],
)
def test_a_trtexec_that_builds_nothing(tmp_path, program, reason):
    path = tmp_path / "trtexec"
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    lines: list[str] = []
    built = spec(tmp_path, Tuning())
    with pytest.raises(BuildError, match=reason):
        trtexec.build(path, built, H100, lines.append)
    (line,) = lines
    assert line.startswith(f"{path} --onnx=") and built.cache.is_dir()
    assert f"--timingCacheFile={built.cache}/trtexec-sm90.cache" in line
    assert not plan.sidecar(built.plan).exists()


def test_the_defaults_of_the_options_are_those_of_a_tuning():
    parser = argparse.ArgumentParser()
    options.add_tuning(parser)
    assert options.tuning_of(parser.parse_args([])) == Tuning() == Tuning(0, 0, 3, False, "same")
    words = "--opt-batch 2 --workspace 7 --builder-level 5 --version-compatible --hardware ampere+"
    assert options.tuning_of(parser.parse_args(words.split())) == Tuning(2, 7, 5, True, "ampere+")
    for level in (0, 5):
        assert Tuning(level=level).level == level
    for wrong in ({"level": 6}, {"level": -1}, {"opt_batch": -1}, {"workspace_mib": -1}):
        with pytest.raises(OptionError):
            Tuning(**wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="one of same, same-capability, ampere\\+, not 'all'"):
        Tuning(hardware="all")
