"""What can go wrong when artifacts are run or a server is started."""

from __future__ import annotations


class ServerError(Exception):
    """Anything the server room reports to a person. `exit_code` is what the command line ends with."""

    exit_code = 1


class ArtifactError(ServerError):
    """An artifact cannot be loaded or run by its runtime."""


class InstallationError(ServerError):
    """No tritonserver can run here. The exit code is EX_UNAVAILABLE of sysexits.h."""

    exit_code = 69


class RepositoryError(ServerError):
    """The model repository holds nothing that can be served."""


class PortInUse(ServerError):
    """Another process listens on a port that was asked for."""


class LoadError(ServerError):
    """The server started, but a model could not be loaded."""


class ReleaseError(ServerError):
    """A release of tritonserver is not known, or cannot load an artifact."""
