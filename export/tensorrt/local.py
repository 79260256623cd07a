"""Builds a plan on this machine, with whatever of TensorRT it has."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from export.errors import MissingHardware
from export.tensorrt import gpu as gpus
from export.tensorrt import trtexec
from export.tensorrt.plan import Plan, Profile, Tuning

if TYPE_CHECKING:
    from export.tensorrt.builder import Watcher


def build(
    onnx: Path,
    plan: Path,
    profile: Profile,
    tuning: Tuning,
    *,
    precision: str,
    cache: Path,
    watcher: Watcher,
    note: Callable[[str], None],
) -> Plan:
    """Build a plan and its sidecar, through the Python API where it can be imported, else through trtexec.

    Args:
        onnx: What it is built from.
        plan: Where it goes; the sidecar goes beside it.
        profile: The shapes it takes.
        tuning: How it is built.
        precision: `fp16` or `fp32`: what its layers are held to.
        cache: A folder for the timing caches.
        watcher: Is told of the progress.
        note: Is called with one line that a person should see.

    Raises:
        MissingHardware: There is no GPU here, or no TensorRT.
        BuildError: TensorRT built no plan, or one that is not what was asked for.
    """
    gpu = gpus.find()
    if gpu is None:
        raise MissingHardware("TensorRT builds on the GPU it builds for, and this machine has no NVIDIA GPU")
    if find_spec("tensorrt"):
        from export.tensorrt import builder

        return builder.build(onnx, plan, profile, tuning, precision=precision, gpu=gpu, cache=cache, watcher=watcher, note=note)
    program = trtexec.find()
    if program is None:
        raise MissingHardware("TensorRT is not installed: pip install '.[gpu]'")
    return trtexec.build(program, onnx, plan, profile, tuning, precision=precision, gpu=gpu, cache=cache, note=note)
