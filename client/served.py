"""What a server says of a model: its state, and how it is used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tritonclient.grpc import model_config_pb2 as pb

from seresnext101_triton.client.contract import (
    ALLOWED_ERROR_PARAMETER,
    CANARY_PARAMETER,
    PREPROCESSING_PREFIX,
    SEEDED,
    UNPROVEN_PARAMETER,
    WEIGHTS_PARAMETER,
    OutputKind,
    Preprocessing,
)
from seresnext101_triton.client.errors import ContractError
from seresnext101_triton.client.server_side import IMAGE_PARAMETER, IMAGE_TYPES

_INPUT_TYPES: dict[int, np.dtype] = {
    pb.TYPE_FP32: np.dtype(np.float32),
    pb.TYPE_FP16: np.dtype(np.float16),
    pb.TYPE_UINT8: np.dtype(np.uint8),
}


# States of a version in Triton's repository index.
READY, LOADING, UNLOADING = "READY", "LOADING", "UNLOADING"


@dataclass(frozen=True)
class ModelState:
    """One version of one model in the server's repository index.

    Attributes:
        name: Name of the model.
        version: The version.
        state: `READY`, `LOADING`, `UNAVAILABLE`, or empty if the server has not tried to load it.
        reason: The server's explanation of a state other than READY.
    """

    name: str
    version: str
    state: str
    reason: str

    @property
    def was_unloaded(self) -> bool:
        """Whether the server has unloaded it as it was told, for example for another version."""
        return (self.state, self.reason) == ("UNAVAILABLE", "unloaded")


@dataclass(frozen=True)
class ServedModel:
    """What a client must know of a model to use it. The server says all of it.

    Attributes:
        name: Name of the model.
        version: The version that answers.
        input: Name of the input tensor.
        dtype: Type of the input: float32, float16, or uint8 for a model that normalises by itself.
            For image files it is object or uint8.
        output: Name of the output tensor.
        classes: Length of the output vector.
        max_batch: Largest number of images in one request; 0 if requests are not batched.
        instances: How many requests the server computes at the same time.
        preprocessing: How an image is prepared.
        output_kind: What the values of the output are.
        untrained: Whether the weights are made from a seed, so that the labels have no meaning.
        platform: The platform or the backend that serves the model.
        allowed_error: The relative error from the network that its publisher allowed explicitly;
            empty if the export's own limit was kept.
        unproven: Whether it was published although nobody had run it and compared its answers.
        image_input: `bytes` or `uint8` if the model takes the content of image files, as a tensor
            of this type; empty if it takes prepared images.
    """

    name: str
    version: str
    input: str
    dtype: np.dtype
    output: str
    classes: int
    max_batch: int
    instances: int
    preprocessing: Preprocessing
    output_kind: OutputKind
    untrained: bool
    platform: str = ""
    allowed_error: str = ""
    unproven: bool = False
    image_input: str = ""

    def is_used_like(self, other: ServedModel) -> bool:
        """Whether what was prepared for the other model fits this one, and is decoded alike."""
        names = ("input", "dtype", "output", "classes", "max_batch", "preprocessing")
        return all(
            getattr(self, name) == getattr(other, name)
            for name in (*names, "output_kind", "image_input")
        )

    @property
    def axes(self) -> tuple[str, ...]:
        """The lengths of the input's axes for one image, as text."""
        if self.image_input:
            return ("1",) if self.image_input == "bytes" else ("length",)
        return tuple(map(str, self.preprocessing.shape))


def read_served_model(name: str, versions: Sequence[str], config: pb.ModelConfig) -> ServedModel:
    """Read how a model is used from what the server says of it.

    Args:
        name: Name of the model.
        versions: The versions that answer. The newest one is taken that is not on trial.
        config: The model's config.

    Raises:
        ContractError: The model does not follow this toolkit's contract.
    """
    if len(config.input) != 1 or len(config.output) != 1:
        raise ContractError(
            f"it has {len(config.input)} inputs and {len(config.output)} outputs, not one each"
        )
    tensor, output = config.input[0], config.output[0]
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    image_input = parameters.get(IMAGE_PARAMETER, "")
    given = pb.DataType.Name(tensor.data_type)
    if image_input and IMAGE_TYPES.get(image_input) != given:
        raise ContractError(
            f"its input is {given}, and its parameter {IMAGE_PARAMETER!r} is {image_input!r}"
        )
    if not image_input and tensor.data_type not in _INPUT_TYPES:
        raise ContractError(f"its input is {given}, not FP32, FP16 or UINT8")
    if not output.dims or output.dims[-1] < 1:
        raise ContractError(
            f"its output's dims {list(output.dims)} do not say how many classes it has"
        )
    if not versions:
        raise ContractError("the server names no version of it")
    trial = parameters.get(CANARY_PARAMETER)
    versions = [version for version in versions if version != trial] or versions
    output_kind = OutputKind.from_parameters(parameters)
    preprocessing = Preprocessing.from_parameters(parameters)
    dtype = np.dtype(np.object_) if image_input == "bytes" else _INPUT_TYPES[tensor.data_type]
    if not image_input and preprocessing.takes_pixels != (dtype == np.uint8):
        raise ContractError(
            f"its input is {given.removeprefix('TYPE_')}, and its "
            f"parameter {PREPROCESSING_PREFIX + 'layout'!r} is {preprocessing.layout}, which is "
            f"for {preprocessing.dtype}"
        )
    return ServedModel(
        name=name,
        version=max(versions, key=version_order),
        input=tensor.name,
        dtype=dtype,
        output=output.name,
        classes=int(output.dims[-1]),
        max_batch=config.max_batch_size,
        instances=sum(group.count for group in config.instance_group) or 1,
        output_kind=output_kind,
        preprocessing=preprocessing,
        untrained=parameters.get(WEIGHTS_PARAMETER) == SEEDED,
        platform=config.platform or config.backend,
        allowed_error=parameters.get(ALLOWED_ERROR_PARAMETER, ""),
        unproven=parameters.get(UNPROVEN_PARAMETER) == "true",
        image_input=image_input,
    )


def version_order(version: str) -> tuple[int, str]:
    """The key by which versions are sorted, oldest first.

    Triton's versions are numbers, of which 10 is newer than 9. Words of other servers are older
    than any number.
    """
    is_number = re.fullmatch("[0-9]{1,20}", version)
    return (int(version), "") if is_number else (-1, version)
