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


class CalibrationError(ExportError):
    """A network cannot be quantised with these images: too few, unreadable, or without the classes that were promised."""


class ParityError(ExportError):
    """An artifact does not answer as the network it was made from. The exit code is EX_DATAERR of sysexits.h."""

    exit_code = 65


class RepositoryError(ExportError):
    """The model repository cannot be written: read-only, full, or in use by another export. EX_CANTCREAT of sysexits.h."""

    exit_code = 73


class BuildError(ExportError):
    """TensorRT built no plan, or one that is not what was asked for. The exit code is that of a failed gate."""

    exit_code = 65


class MissingHardware(ExportError):
    """A format that was named cannot be made on this machine: no GPU, or no TensorRT."""


class RangeError(ExportError):
    """The network's values do not fit into the precision that was asked for. The exit code is that of a failed gate."""

    exit_code = 65
