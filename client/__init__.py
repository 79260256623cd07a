"""Classifications from a model served by Triton, in three lines.

    from client import Classifier

    classifier = Classifier("localhost:8001", model="seresnext101_onnx")
    print(classifier.classify("cat.jpg"))

The client knows nothing of the network: how an image is prepared and what the output means it learns from the parameters of the
served model. It imports numpy, Pillow, tritonclient and rich, and of those only what is used, when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client.aio import AsyncClassifier
    from client.classifier import Classifier
    from client.decoding import Prediction
    from client.errors import ClientError
    from client.images import Opening
    from client.pipeline import Answer
    from client.transport import Link, Tls

__all__ = ["Answer", "AsyncClassifier", "Classifier", "ClientError", "Link", "Opening", "Prediction", "Tls"]

_HOMES = {
    "Answer": "client.pipeline",
    "AsyncClassifier": "client.aio",
    "Classifier": "client.classifier",
    "ClientError": "client.errors",
    "Link": "client.transport",
    "Opening": "client.images",
    "Prediction": "client.decoding",
    "Tls": "client.transport",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `python -m client --help` is instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'client' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
