"""The errors that a user sees. Each message names the cause and a remedy.

`ToolkitError` is the base class of the errors of all four packages. Only the function
`seresnext101_triton.client.output.report` turns such an error into lines on standard error and an
exit code.
"""

from __future__ import annotations


class ToolkitError(Exception):
    """The base class of every error that this toolkit reports to a person.

    Args:
        message: Names the cause and a remedy. Every error has one.

    Attributes:
        exit_code: The exit code of a command that ends with this error.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)


class ClientError(ToolkitError):
    """The base class of the client's errors."""


class UsageError(ClientError):
    """An argument of a call is invalid. Nothing was sent. The exit code is argparse's own."""

    exit_code = 2


class ImageError(ClientError):
    """One image has no prediction: it cannot be decoded, or the model's answer for it is invalid.

    Other images are not affected.
    """


class AnswerError(ImageError):
    """The model's answer for one image holds a number that is not a probability."""


class ContractError(ClientError):
    """The served model does not say how its input is prepared, or this client cannot do it."""


class ModelUnavailable(ClientError):
    """The server answers, but it does not serve this model or version."""


class RequestRejected(ClientError):
    """The server refused the request.

    The request is invalid or larger than the maximum batch, or the server is overloaded.

    Attributes:
        is_overload: Whether the server had no place for the request, and may have one later.
    """

    is_overload = False


class AccessDenied(ClientError):
    """The server, or a gateway in front of it, asks for a token or a key, or does not accept it.

    The request is not sent again, and a run ends, because the next request would be refused too.
    """


class ServerUnreachable(ClientError):
    """No server answers at this address in time. The exit code is EX_UNAVAILABLE of sysexits.h."""

    exit_code = 69


class ObjectStoreError(ClientError):
    """An object store with images cannot be listed. The exit code is EX_UNAVAILABLE."""

    exit_code = 69


class NotTriton(ServerUnreachable):
    """The program that answers at this address is not a Triton server.

    Functions that wait for a server go on waiting, because a gateway shows its own pages until the
    server behind it has started.
    """


class DeadlineExceeded(ServerUnreachable):
    """A server took the request and did not answer in time. The request is not sent again."""


class OutputError(ClientError):
    """A file of results cannot be written or continued. EX_CANTCREAT of sysexits.h."""

    exit_code = 73
