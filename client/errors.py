"""What can go wrong between an image and its top-5: each error names the cause and the way out."""

from __future__ import annotations


class ClientError(Exception):
    """Anything the client reports to a person. `exit_code` is what the command line ends with."""

    exit_code = 1


class ImageError(ClientError):
    """An input is not an image that can be decoded."""


class ContractError(ClientError):
    """The served model does not say how its input is prepared, or says it in a way this client cannot follow."""


class ModelUnavailable(ClientError):
    """The server answers, but does not serve this model or version."""


class RequestRejected(ClientError):
    """The server refused the request: invalid, over the maximum batch, or shed because the queue was full or too slow."""


class ServerUnreachable(ClientError):
    """No server answers at this address, or not in time. The exit code is EX_UNAVAILABLE of sysexits.h."""

    exit_code = 69


class DeadlineExceeded(ServerUnreachable):
    """A server took the request and did not answer in time. It is not sent again: the time is used up."""


class OutputError(ClientError):
    """A file of results cannot be written, or gone on with. The exit code is EX_CANTCREAT of sysexits.h."""

    exit_code = 73
