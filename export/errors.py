"""What can go wrong between a checkpoint and a published model. Whatever is raised, the repository is as it was."""

from __future__ import annotations


class ExportError(Exception):
    """Anything the exporter reports to a person. `exit_code` is what the command line ends with."""

    exit_code = 1


class CheckpointError(ExportError):
    """A file is not a checkpoint, or not one of this network."""


class SourceUnavailable(ExportError):
    """Weights cannot be fetched: no network, or nothing at that address. The exit code is EX_UNAVAILABLE of sysexits.h."""

    exit_code = 69


class OptionError(ExportError):
    """Options that do not go together, or with these weights."""

    exit_code = 2


class ParityError(ExportError):
    """An artifact does not answer as the network it was made from. The exit code is EX_DATAERR of sysexits.h."""

    exit_code = 65


class RepositoryError(ExportError):
    """The model repository cannot be written: read-only, full, or in use by another export. EX_CANTCREAT of sysexits.h."""

    exit_code = 73
