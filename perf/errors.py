"""The errors of measuring: each message names the cause and the way out."""

from __future__ import annotations

from seresnext101_triton.client.errors import ToolkitError


class PerfError(ToolkitError):
    """The base class of the errors of `perf`."""


class UsageError(PerfError):
    """An option has a value that does not exist. Nothing was measured."""

    exit_code = 2


class ToolMissing(PerfError):
    """A program or a package is not here that is measured with. The exit code is EX_UNAVAILABLE."""

    exit_code = 69


class AnalyzerMissing(ToolMissing):
    """There is no perf_analyzer, or it does not run here."""


class AnalyzerFailed(PerfError):
    """perf_analyzer ended without a measurement."""


class Unstable(AnalyzerFailed):
    """perf_analyzer found no three windows in a row that agree."""


class AnalyzerHung(AnalyzerFailed):
    """perf_analyzer did not end by itself, and was killed."""


class ResultsError(PerfError):
    """A file of results cannot be read or written. The exit code is EX_CANTCREAT."""

    exit_code = 73
