"""The errors of running artifacts and of starting a server."""

from __future__ import annotations

from seresnext101_triton.client.errors import ToolkitError


class ServerError(ToolkitError):
    """The base class of the errors of `server`."""


class ArtifactError(ServerError):
    """A runtime cannot load or run an artifact. The exit code is EX_DATAERR of sysexits.h."""

    exit_code = 65


class IntegrityError(ServerError):
    """A file of a version is not the one that was published. EX_DATAERR of sysexits.h."""

    exit_code = 65


class InstallationError(ServerError):
    """No tritonserver can run on this machine. The exit code is EX_UNAVAILABLE of sysexits.h."""

    exit_code = 69


class NothingToServe(ServerError):
    """The model repository does not exist, or holds no model that can be served."""


class PortInUse(ServerError):
    """The server cannot listen on a requested port, for example because another process does."""


class WorkspaceError(ServerError):
    """The temporary folder or the shared memory of this machine cannot hold a server's files.

    The exit code is EX_CANTCREAT of sysexits.h.
    """

    exit_code = 73


class LoadError(ServerError):
    """The server started, but could not load a model."""


class ReleaseError(ServerError):
    """A release of tritonserver cannot load an artifact."""


class UnknownRelease(ReleaseError):
    """No release of tritonserver has this name. The exit code is argparse's own."""

    exit_code = 2


class StoreError(ServerError):
    """An object store cannot be read or written. EX_CANTCREAT of sysexits.h."""

    exit_code = 73
