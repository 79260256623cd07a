"""Builds a plan on this machine, with whatever of TensorRT it has."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from export.errors import MissingHardware
from export.tensorrt import gpu as gpus
from export.tensorrt import trtexec
from export.tensorrt.plan import Order, Plan

if TYPE_CHECKING:
    from export.tensorrt.builder import Watcher


def build(order: Order, watcher: Watcher, note: Callable[[str], None]) -> Plan:
    """Build a plan and its sidecar, through the Python API where it can be imported, else through trtexec.

    Args:
        order: What to build.
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

        return builder.build(order, gpu, watcher, note)
    program = trtexec.find()
    if program is None:
        raise MissingHardware("TensorRT is not installed: pip install '.[gpu]'")
    return trtexec.build(program, order, gpu, note)
