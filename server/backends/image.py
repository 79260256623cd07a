"""The Python model that decodes and prepares images on the server.

It opens and prepares them with the client's own code, so that the pixels are the same, bit for bit.
`python -m export --image-input` writes a `model.py` that imports it. It runs inside the stub, the
process in which Triton runs a Python model.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.errors import ImageError
from seresnext101_triton.client.images import ImageOptions, load_image, sample_photographs
from seresnext101_triton.client.server_side import ERROR_PREFIX, IMAGE_BYTES, option_parameters
from seresnext101_triton.server.backends.tensors import to_array, to_tensor

_DATA_URL = b"data:"


class TritonPythonModel:
    """Maps encoded images to the input of a network.

    The input is BYTES [N, 1], one encoded image or data URL in each row, or UINT8 [1, length], one
    encoded image. An image that cannot be opened fails its own request, with the client's message.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Read the contract from the config, and prepare one image, so that a fault shows now."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._preprocessing = Preprocessing.from_parameters(parameters)
        limits = {name: int(parameters[key]) for name, key in option_parameters().items()}
        self._options = replace(ImageOptions(), **limits)  # type: ignore[arg-type]
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]
        self._holds_bytes = config["input"][0]["data_type"] == IMAGE_BYTES
        self._prepared([sample_photographs()[0].read_bytes()])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request with its images, or with the error of the first bad image."""
        return [self._response(request) for request in requests]

    def _response(self, request: Any) -> Any:
        try:
            tensor = pb_utils.get_input_tensor_by_name(request, self._input)
            return pb_utils.InferenceResponse(
                [to_tensor(self._output, self._prepared(list(self._images(tensor))))]
            )
        except ImageError as error:
            text, code = f"{ERROR_PREFIX}{error}", pb_utils.TritonError.INVALID_ARG
        except Exception as error:  # noqa: BLE001  (any error is the request's answer)
            text, code = f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))

    def _images(self, tensor: Any) -> Iterator[bytes]:
        if self._holds_bytes:
            return map(_content, tensor.as_numpy().ravel())
        return (row.tobytes() for row in to_array(tensor))

    def _prepared(self, images: Sequence[bytes]) -> np.ndarray:
        """The network's input for all images of a request.

        Raises:
            ImageError: One of them cannot be opened.
        """
        contract = self._preprocessing
        batch = np.empty((len(images), *contract.shape), contract.dtype)
        for number, image in enumerate(images, 1):
            try:
                batch[number - 1] = contract.prepared(load_image(image, self._options))
            except ImageError as error:
                place = f"image {number} of {len(images)}: " if len(images) > 1 else ""
                raise ImageError(f"{place}{error}") from None
        return batch


def _content(element: bytes) -> bytes:
    """The content of an image file: the element itself, or what a data URL (RFC 2397) holds.

    JSON holds text only, so that callers write a file in base64.

    Raises:
        ImageError: The element is a data URL, and not in base64.
    """
    if not element.startswith(_DATA_URL):
        return bytes(element)
    head, comma, data = element.partition(b",")
    try:
        if not comma or not head.endswith(b";base64"):
            raise ValueError("it is not data:...;base64,...")
        return b64decode(data, validate=True)
    except ValueError as error:
        raise ImageError(
            f"{len(element)} bytes is a data URL that cannot be read: {error}"
        ) from None
