"""The network as an ONNX file, from which several formats are made."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor

from seresnext101_triton.export.format import INPUT, OUTPUT
from seresnext101_triton.export.served import ServedNetwork

# The dynamo exporter's own; TensorRT 10 and 11, OpenVINO and ONNX Runtime of every supported Triton
# release read it.
OPSET = 18
BATCH_AXIS = "batch"


def write(network: ServedNetwork, example: Tensor, max_batch: int, path: Path) -> None:
    """Export the network to one self-contained file, and check it with onnx.checker.

    Args:
        network: In eval mode, on the CPU, BatchNorm folded; its memory layout is changed.
        example: float32 [2, 3, H, W]; with a batch of 1 the exporter would take the axis for fixed.
        max_batch: Upper bound of the batch axis.
        path: Where the artifact goes.
    """
    # With channels-last weights the exporter would write strided views, as gathers, around every
    # pooling.
    network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    batch = torch.export.Dim(BATCH_AXIS, min=1, max=max(max_batch, len(example)))
    with torch.no_grad(), _silenced():
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
def _silenced():  # type: ignore[no-untyped-def]
    """Hide the progress marks of PyTorch's exporter and its warnings of its own internals.

    Failures are exceptions in any case.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
