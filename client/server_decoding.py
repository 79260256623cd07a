"""Sends image files as they are, to a server that decodes them.

An image gets the same answer, and the same error, as if it were decoded here.
"""

from __future__ import annotations

import time
from typing import Literal, TypeAlias, get_args

import numpy as np

from seresnext101_triton.client import fast
from seresnext101_triton.client.connection import Connection
from seresnext101_triton.client.errors import (
    ContractError,
    ImageError,
    ModelUnavailable,
    RequestRejected,
    UsageError,
)
from seresnext101_triton.client.images import (
    ImageOptions,
    ImageSource,
    encoded,
    load_image,
    named,
    sample_photographs,
)
from seresnext101_triton.client.served import ServedModel
from seresnext101_triton.client.server_side import ERROR_PREFIX, IMAGE_SUFFIX

ServerSide: TypeAlias = Literal["no", "yes", "auto"]
_TURNS = 3


def check_server_side(server_side: str) -> None:
    """Refuse an unknown value.

    Raises:
        UsageError: It is none of `ServerSide`.
    """
    if server_side not in get_args(ServerSide):
        known = ", ".join(get_args(ServerSide))
        raise UsageError(f"`server_side` must be one of {known}, not {server_side!r}")


def check_options(model: ServedModel, options: ImageOptions) -> None:
    """Refuse options that a model, or a server which decodes images, cannot be used with.

    Raises:
        UsageError: An option of decoding is not the server's, or `fast` has not the model's filter.
    """
    usual = ImageOptions()
    parameters = {
        "orient": "`orient`",
        "draft": "`draft`",
        "fast": "`fast`",
        "max_pixels": "`max_pixels`",
    }
    for name, shown in parameters.items():
        if model.image_input and getattr(options, name) != getattr(usual, name):
            raise UsageError(
                f"{shown} cannot be chosen for {model.name}, whose server decodes the images: "
                f"leave it out, or use {model.name.removesuffix(IMAGE_SUFFIX)} with "
                "`server_side=no`"
            )
    if options.fast and model.preprocessing.interpolation != fast.FILTER:
        raise UsageError(
            f"`fast` cannot be chosen for {model.name}, whose images are resized with a "
            f"{model.preprocessing.interpolation} filter: leave it out"
        )


def choose(
    connection: Connection, model: ServedModel, server_side: ServerSide, options: ImageOptions
) -> ServedModel:
    """The model to use: the given one, or the one beside it that takes image files.

    Args:
        connection: A connection to the server.
        model: A model.
        server_side: `no` and `yes` decide it. With `auto`, the faster one is used, by the shortest
            of three requests each with a photograph.
        options: How images are opened. With options that a server does not know, `auto` means
            `no`.

    Raises:
        ModelUnavailable: The answer is `yes`, and the server does not offer it.
        UsageError: The answer is `yes`, and an option is not the server's.
    """
    if server_side == "no" or model.image_input:
        return model
    try:
        other = connection.describe(model.name + IMAGE_SUFFIX)
        check_options(other, options)
    except (ModelUnavailable, ContractError, UsageError) as error:
        if server_side == "auto":
            return model
        if isinstance(error, ModelUnavailable):
            raise ModelUnavailable(
                f"{error}. Models that take image files are published by `python -m export` with "
                "`image_input`"
            ) from None
        raise
    if server_side == "yes":
        return other
    return min((model, other), key=lambda each: _fastest(connection, each))


def _fastest(connection: Connection, model: ServedModel) -> float:
    """The shortest time from a file to its answer, in seconds."""
    photograph, times = sample_photographs()[0], []
    for _ in range(_TURNS):
        started = time.perf_counter()
        connection.infer_top(model, tensor_of(photograph, model, ImageOptions())[None], 1)
        times.append(time.perf_counter() - started)
    return min(times)


def tensor_of(image: ImageSource, model: ServedModel, options: ImageOptions) -> np.ndarray:
    """One image as a model takes it, without the batch axis: prepared, or the file as it is.

    Raises:
        ImageError: The image cannot be opened.
    """
    if model.image_input:
        content = encoded(image, options)
        if model.image_input == "uint8":
            return np.frombuffer(content, np.uint8)
        return np.array([content], np.object_)
    picture = load_image(image, options)
    prepared = model.preprocessing.prepared(picture, is_fast=options.fast)
    return prepared.astype(model.dtype, copy=False)


def image_error(error: RequestRejected) -> ImageError | None:
    """The error of an image that the server could not open; None if that is not the reason."""
    _, prefix, message = str(error).partition(ERROR_PREFIX)
    return ImageError(message) if prefix else None


def with_name(error: ImageError, content: np.ndarray, image: ImageSource) -> ImageError:
    """The server's error of one image, with the image's name.

    The server knows only how many bytes the image has.
    """
    sent = f"{len(content[0]) if content.dtype == np.object_ else len(content)} bytes"
    text = str(error)
    return ImageError(f"{named(image)}{text[len(sent) :]}") if text.startswith(sent) else error
