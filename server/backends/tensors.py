"""Hands tensors from Triton's stub to numpy and back, by DLPack with numpy 2.

The stub of the embedded server was built against numpy 1. With numpy 2, its `as_numpy` and its
constructor of tensors read another memory layout. DLPack has one layout for all versions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

_NUMPY_1 = np.lib.NumpyVersion(np.__version__) < "2.0.0"


def to_array(tensor: Any) -> np.ndarray:
    """Read a tensor of a request, float32 on the CPU, without a copy.

    Returns:
        An array of the tensor's shape, which may be read-only.
    """
    array: np.ndarray = tensor.as_numpy() if _NUMPY_1 else np.from_dlpack(tensor)
    return array


def to_tensor(name: str, array: np.ndarray) -> Any:
    """Make the tensor of a response.

    Args:
        name: The name of the model's output.
        array: The values, float32 of any shape.
    """
    if _NUMPY_1:
        return pb_utils.Tensor(name, array)
    return pb_utils.Tensor.from_dlpack(name, np.ascontiguousarray(array))
