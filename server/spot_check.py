"""Asks a server for the classes of one photograph, before a version that it has loaded is kept.

The answer must be that of the version's artifact when it was published.
"""

from __future__ import annotations

import time
from pathlib import Path

from seresnext101_triton.client import Classifier, Prediction, TransportOptions
from seresnext101_triton.client.errors import (
    AnswerError,
    ClientError,
    ContractError,
    DeadlineExceeded,
    RequestRejected,
)
from seresnext101_triton.client.launches import Launch
from seresnext101_triton.server.errors import LoadError
from seresnext101_triton.server.reference import PHOTOGRAPH, Reference, read_reference

_TIMEOUT_S = 30.0
_ATTEMPTS, _PAUSE_S = 5, 0.2  # a server may be overloaded for a moment


def spot_check(launch: Launch, model: str, version: int) -> None:
    """Classify a photograph with a version that is ready.

    A version can be ready and fail every request, for example because its arithmetic overflows, or
    be ready and answer wrongly, for example because its weights are others. A model that does not
    say how images are prepared is not asked. An overloaded server says nothing against the version:
    a rollback must be possible then.

    Args:
        launch: The server.
        model: The model.
        version: The version.

    Raises:
        LoadError: The version does not answer, not with probabilities, or otherwise than its
            artifact did when it was published.
    """
    reference = read_reference(Path(launch.repository, model, str(version)))
    options = TransportOptions(timeout_s=_TIMEOUT_S)
    url = f"http://{launch.http_host}:{launch.http}"
    try:
        try:
            classifier = Classifier(url, model, version=str(version), transport_options=options)
        except ContractError:
            return
        with classifier:
            answer = _ask(classifier, classifier.model.classes if reference else 1)
    except ClientError as error:
        if isinstance(error, RequestRejected) and error.is_overload:
            return
        raise LoadError(
            f"version {version} of model {model!r} was loaded at {launch.url} and does not answer "
            f"as it should: {error}"
        ) from None
    if reference is not None:
        _compare(answer, reference, f"version {version} of model {model!r} at {launch.url}")


def _compare(answer: list[Prediction], reference: Reference, place: str) -> None:
    """Refuse an answer that is not that of the reference.

    Raises:
        LoadError: It is not.
    """
    distance = reference.distance({each.index: each.probability for each in answer})
    if not distance <= reference.allowed:
        raise LoadError(
            f"{place} answers otherwise than its artifact did when it was published: for "
            f"{reference.photograph}, class {answer[0].index} has probability "
            f"{answer[0].probability:.2f}, and it was class {reference.classes[0]} with "
            f"{reference.probabilities[0]:.2f} (distance {distance:.2f}, and "
            f"{reference.allowed:.2f} is allowed): its artifact or its config was changed, or this "
            "machine computes it wrongly; export it anew with `python -m export --force`"
        )


def _ask(classifier: Classifier, top: int) -> list[Prediction]:
    """Ask up to five times, because a failure may pass. A wrong answer, or none, does not."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return classifier.classify(PHOTOGRAPH, top=top)
        except (AnswerError, ContractError, DeadlineExceeded):
            raise
        except ClientError:
            time.sleep(_PAUSE_S)
    return classifier.classify(PHOTOGRAPH, top=top)
