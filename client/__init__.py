"""Classifies images with a model that Triton serves.

    from seresnext101_triton.client import Classifier

    with Classifier("localhost:8001", model="seresnext101_onnx") as classifier:
        print(classifier.classify("cat.jpg"))

The client knows nothing of the network: the parameters of the served model say how an image is
prepared and what the output means. Besides `Classifier` there are `AsyncClassifier` for asyncio,
`Connection` and `AsyncConnection` for prepared batches, `TransportOptions`, `Tls` and
`ImageOptions` for everything that can be set, and one exception for each kind of fault, all of
them derived from `ClientError`.

The package needs numpy, Pillow, tritonclient and rich. Each is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seresnext101_triton.client.aio import AsyncClassifier
    from seresnext101_triton.client.classifier import Classifier
    from seresnext101_triton.client.connection import AsyncConnection, Connection
    from seresnext101_triton.client.contract import OutputKind, Preprocessing
    from seresnext101_triton.client.decoding import Prediction
    from seresnext101_triton.client.errors import (
        AccessDenied,
        AnswerError,
        ClientError,
        ContractError,
        DeadlineExceeded,
        ImageError,
        ModelUnavailable,
        NotTriton,
        OutputError,
        RequestRejected,
        ServerUnreachable,
        ToolkitError,
        UsageError,
    )
    from seresnext101_triton.client.images import ImageOptions
    from seresnext101_triton.client.pipeline import Answer
    from seresnext101_triton.client.served import ModelState, ServedModel
    from seresnext101_triton.client.transport import Tls, TransportOptions

_ERRORS = (
    "AccessDenied",
    "AnswerError",
    "ClientError",
    "ContractError",
    "DeadlineExceeded",
    "ImageError",
    "ModelUnavailable",
    "NotTriton",
    "OutputError",
    "RequestRejected",
    "ServerUnreachable",
    "ToolkitError",
    "UsageError",
)
# The module of each public name.
_MODULES = {
    "Answer": "seresnext101_triton.client.pipeline",
    "AsyncClassifier": "seresnext101_triton.client.aio",
    "AsyncConnection": "seresnext101_triton.client.connection",
    "Classifier": "seresnext101_triton.client.classifier",
    "Connection": "seresnext101_triton.client.connection",
    "ImageOptions": "seresnext101_triton.client.images",
    "ModelState": "seresnext101_triton.client.served",
    "OutputKind": "seresnext101_triton.client.contract",
    "Prediction": "seresnext101_triton.client.decoding",
    "Preprocessing": "seresnext101_triton.client.contract",
    "ServedModel": "seresnext101_triton.client.served",
    "Tls": "seresnext101_triton.client.transport",
    "TransportOptions": "seresnext101_triton.client.transport",
    **dict.fromkeys(_ERRORS, "seresnext101_triton.client.errors"),
}

__all__ = [
    "AccessDenied",
    "Answer",
    "AnswerError",
    "AsyncClassifier",
    "AsyncConnection",
    "Classifier",
    "ClientError",
    "Connection",
    "ContractError",
    "DeadlineExceeded",
    "ImageError",
    "ImageOptions",
    "ModelState",
    "ModelUnavailable",
    "NotTriton",
    "OutputError",
    "OutputKind",
    "Prediction",
    "Preprocessing",
    "RequestRejected",
    "ServedModel",
    "ServerUnreachable",
    "Tls",
    "ToolkitError",
    "TransportOptions",
    "UsageError",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `python -m client --help` is fast."""
    if name not in _MODULES:
        raise AttributeError(f"module 'client' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
