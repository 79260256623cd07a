"""ONNX, for Triton's ONNX Runtime backend and as the way to TensorRT and OpenVINO."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor

from export.formats import INPUT, OUTPUT
from export.formats.material import Material
from export.formats.served import ServedNetwork
from export.repository import link

# The dynamo exporter's own; TensorRT 10 and 11, OpenVINO and ONNX Runtime of every supported Triton release read it.
OPSET = 18
BATCH_AXIS = "batch"


def export(material: Material, folder: Path) -> None:
    """Put the one ONNX file of this precision into a folder."""
    link(str(material.onnx), str(folder / "model.onnx"))


def write(network: ServedNetwork, example: Tensor, max_batch: int, path: Path) -> None:
    """Export to one self-contained file and have onnx.checker look it over.

    Args:
        network: In eval mode, on the CPU, BatchNorm folded; its memory layout is changed.
        example: float32 [2, 3, H, W]; with a batch of 1 the exporter would take the axis for fixed.
        max_batch: Upper bound of the batch axis.
        path: Where the artifact goes.
    """
    # With channels-last weights the exporter would write strided views, as gathers, around every pooling.
    network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    batch = torch.export.Dim(BATCH_AXIS, min=1, max=max(max_batch, len(example)))
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: batch},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces with this machine's paths
    program.save(path, external_data=False)
    onnx.checker.check_model(str(path), full_check=True)


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """The exporter prints progress marks and warns of its own internals; failures are exceptions all the same."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
