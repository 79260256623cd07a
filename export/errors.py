"""The errors between a checkpoint and a published model.

After any of them the repository is as it was, unless the message says otherwise.
"""

from __future__ import annotations

from seresnext101_triton.client.errors import ToolkitError


class ExportError(ToolkitError):
    """The base class of the exporter's errors."""


class CheckpointError(ExportError):
    """A file is not a checkpoint, or not one of this network."""


class SourceUnavailable(ExportError):
    """Weights cannot be fetched: there is no network, or nothing at that address.

    The exit code is EX_UNAVAILABLE of sysexits.h.
    """

    exit_code = 69


class OptionError(ExportError):
    """Options that do not go together, or with these weights."""

    exit_code = 2


class CalibrationError(ExportError):
    """A network cannot be quantised with these images.

    They are too few, one cannot be read, or the class of one is not known although classes were
    given.
    """


class ParityError(ExportError):
    """An artifact does not answer as the network it was made from.

    The exit code is EX_DATAERR of sysexits.h.
    """

    exit_code = 65


class RepositoryError(ExportError):
    """The model repository cannot be read or written, or another export is writing to it.

    The exit code is EX_CANTCREAT of sysexits.h.
    """

    exit_code = 73


class ManifestError(ExportError):
    """A version's manifest is missing, damaged, or one that this toolkit did not write."""


class VersionError(ExportError):
    """A model has no such version, or it is not known how the version was served."""


class BuildError(ExportError):
    """TensorRT built no plan, or a plan that is not what was asked for.

    The exit code is that of a failed gate.
    """

    exit_code = 65


class MissingHardware(ExportError):
    """A format that was named cannot be made on this machine: no GPU, or no TensorRT."""


class RangeError(ExportError):
    """The network's values do not fit into the precision that was asked for.

    The exit code is that of a failed gate.
    """

    exit_code = 65
