"""Asks a server for the classes of one photograph, before a version that it has loaded is kept."""

from __future__ import annotations

import time

from seresnext101_triton.client import Classifier, TransportOptions
from seresnext101_triton.client.errors import (
    AnswerError,
    ClientError,
    ContractError,
    DeadlineExceeded,
    RequestRejected,
)
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.client.launches import Launch
from seresnext101_triton.server.errors import LoadError

_TIMEOUT_S = 30.0
_ATTEMPTS, _PAUSE_S = 5, 0.2  # a server may be overloaded for a moment


def spot_check(launch: Launch, model: str, version: int) -> None:
    """Classify a photograph with a version that is ready.

    A version can be ready and fail every request, for example because its arithmetic overflows. A
    model that does not say how images are prepared is not asked. An overloaded server says nothing
    against the version: a rollback must be possible then.

    Args:
        launch: The server.
        model: The model.
        version: The version.

    Raises:
        LoadError: The version does not answer, or not with probabilities.
    """
    options = TransportOptions(timeout_s=_TIMEOUT_S)
    url = f"http://{launch.http_host}:{launch.http}"
    try:
        try:
            classifier = Classifier(url, model, version=str(version), transport_options=options)
        except ContractError:
            return
        with classifier:
            _ask(classifier)
    except ClientError as error:
        if isinstance(error, RequestRejected) and error.is_overload:
            return
        raise LoadError(
            f"version {version} of model {model!r} was loaded at {launch.url} and does not answer "
            f"as it should: {error}"
        ) from None


def _ask(classifier: Classifier) -> None:
    """Ask up to five times, because a failure may pass. A wrong answer, or none, does not."""
    for attempt in range(_ATTEMPTS):
        try:
            classifier.classify(sample_photographs()[0])
            return
        except (AnswerError, ContractError, DeadlineExceeded):
            raise
        except ClientError:
            if attempt == _ATTEMPTS - 1:
                raise
        time.sleep(_PAUSE_S)
