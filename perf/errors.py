"""What can go wrong while measuring: each error names the cause and the way out."""

from __future__ import annotations


class PerfError(Exception):
    """Anything `python -m perf` reports to a person. `exit_code` is what the command line ends with."""

    exit_code = 1


class AnalyzerMissing(PerfError):
    """There is no perf_analyzer, or it does not run here. The exit code is EX_UNAVAILABLE of sysexits.h."""

    exit_code = 69


class AnalyzerFailed(PerfError):
    """perf_analyzer ended without a measurement."""


class Unstable(AnalyzerFailed):
    """perf_analyzer found no three windows in a row that agree."""


class ResultsError(PerfError):
    """A file of results cannot be read or written. The exit code is EX_CANTCREAT of sysexits.h."""

    exit_code = 73
