"""Watches whether the requests of callers fail with a version that has just been loaded.

Triton counts the requests that fail in a model, by reason. What a caller gives up, or a full queue
refuses, says nothing against the version.
"""

from __future__ import annotations

import time

from seresnext101_triton.client.errors import ClientError, NotTriton, ServerUnreachable
from seresnext101_triton.client.launches import Launch
from seresnext101_triton.client.metrics import Page, read_page
from seresnext101_triton.server.errors import LoadError, ServerError

_OF_THE_MODEL = ("BACKEND", "OTHER")
_RISE = 0.01  # of the share of requests that fail
_ENOUGH = 10  # failures after which nothing more is waited for
_POLL_S = 0.25
_TIMEOUT_S = 10.0


def failed_share(launch: Launch, model: str) -> float:
    """The share of a model's requests that have failed at a server so far, from 0 to 1.

    Raises:
        ServerError: The server does not tell its metrics.
    """
    failed, answered = _counts(launch, model)
    return failed / (failed + answered) if failed else 0.0


def soak(launch: Launch, model: str, version: int, seconds: float, before: float) -> None:
    """Let callers use a version, and refuse it if more of their requests fail than before.

    Args:
        launch: The server.
        model: The model.
        version: The version, which is served.
        seconds: How long to watch. 0 watches nothing.
        before: The share of requests that failed with the version before.

    Raises:
        LoadError: The share has risen by more than a hundredth.
        ServerError: The server does not tell its metrics.
    """
    if not seconds:
        return
    end = time.monotonic() + seconds
    old_failed, old_answered = _counts(launch, model, version)
    while True:
        is_over = time.monotonic() >= end
        failed, answered = _counts(launch, model, version)
        # They count from 0 again if the model was loaded again meanwhile.
        failed = failed - old_failed if failed >= old_failed else failed
        answered = answered - old_answered if answered >= old_answered else answered
        is_worse = failed and failed / (failed + answered) > before + _RISE
        if is_worse and (is_over or failed >= _ENOUGH):
            raise LoadError(
                f"version {version} of model {model!r} at {launch.url} fails: "
                f"{failed:.0f} of {failed + answered:.0f} requests ({before:.1%} before): read the "
                "errors that callers get"
            )
        if is_over:
            return
        time.sleep(_POLL_S)


def page_of(launch: Launch) -> Page:
    """The metrics of a server, or of all servers of a fleet.

    Raises:
        ServerError: It does not tell them.
    """
    try:
        return read_page(launch.http_host, launch.metrics, _TIMEOUT_S)
    except ClientError as error:
        has_died = isinstance(error, ServerUnreachable) and not isinstance(error, NotTriton)
        why = "it does not answer, and may have died" if has_died else error
        raise ServerError(f"the server at {launch.url} tells no metrics: {why}") from None


def _counts(launch: Launch, model: str, version: int | None = None) -> tuple[float, float]:
    """The requests that have failed in a model, and those that were answered."""
    counts = [
        found
        for (name, number), found in page_of(launch).models.items()
        if name == model and version in (None, int(number or 0))
    ]
    failed = sum(each.failures.get(reason, 0) for each in counts for reason in _OF_THE_MODEL)
    return failed, sum(each.requests for each in counts)
