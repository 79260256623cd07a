"""Builds a plan on this machine, with whatever of TensorRT it has."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from seresnext101_triton.export.errors import MissingHardware
from seresnext101_triton.export.tensorrt import trtexec
from seresnext101_triton.export.tensorrt.plan import BuildSpec, Plan
from seresnext101_triton.server import gpu as gpus

if TYPE_CHECKING:
    from seresnext101_triton.export.tensorrt.listening import Watcher


def build(spec: BuildSpec, watcher: Watcher, note: Callable[[str], None]) -> Plan:
    """Build a plan and its sidecar.

    The Python API is used where it can be imported, and trtexec otherwise.

    Args:
        spec: What to build.
        watcher: Is told of the progress.
        note: Is called with one line that a person should see.

    Raises:
        MissingHardware: There is no GPU here, or no TensorRT.
        BuildError: TensorRT built no plan, or one that is not what was asked for.
    """
    gpu = gpus.find()
    if gpu is None:
        raise MissingHardware(
            "TensorRT builds on the GPU it builds for, and this machine has no NVIDIA GPU"
        )
    if find_spec("tensorrt"):
        from seresnext101_triton.export.tensorrt import builder

        return builder.build(spec, gpu, watcher, note)
    program = trtexec.find()
    if program is None:
        raise MissingHardware("TensorRT is not installed: pip install '.[gpu]'")
    return trtexec.build(program, spec, gpu, note)
