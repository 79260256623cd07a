"""The options of `Tuning`, the same for both command lines that build plans."""

from __future__ import annotations

import argparse

from seresnext101_triton.export.tensorrt.plan import HARDWARE, Tuning


def add_tuning(parser: argparse._ActionsContainer) -> None:
    """Add the options of `Tuning`."""
    parser.add_argument(
        "--opt-batch",
        type=int,
        default=0,
        metavar="N",
        help="the batch a plan is fastest at (default: the maximum)",
    )
    parser.add_argument(
        "--workspace",
        dest="workspace_mib",
        type=int,
        default=0,
        metavar="MIB",
        help="most memory of one kernel (default: all the GPU has)",
    )
    parser.add_argument(
        "--builder-level",
        type=int,
        default=3,
        metavar="0-5",
        help="how long TensorRT searches (default: 3)",
    )
    parser.add_argument(
        "--version-compatible",
        action="store_true",
        help="a plan that newer TensorRT loads too; may be slower",
    )
    parser.add_argument(
        "--hardware",
        choices=tuple(HARDWARE),
        default="same",
        help="which other GPUs may load a plan (default: same)",
    )


def tuning_of(arguments: argparse.Namespace) -> Tuning:
    """The options as one validated value.

    Raises:
        OptionError: One is out of range.
    """
    return Tuning(
        arguments.opt_batch,
        arguments.workspace_mib,
        arguments.builder_level,
        arguments.version_compatible,
        arguments.hardware,
    )
