"""Exports one network in every form that a CPU can serve, so that the forms can be compared."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from seresnext101_triton.export.cli import request_of
from seresnext101_triton.export.errors import (
    BuildError,
    CalibrationError,
    ExportError,
    MissingHardware,
    ParityError,
    RangeError,
)
from seresnext101_triton.export.formats import FORMATS
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.reporting import Reporter
from seresnext101_triton.export.request import Request
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.settings import Setting

# Those that take part without being named.
_FORMATS = tuple(name for name, each in FORMATS.items() if each.is_quick)
# What is wrong with one form of the network, or with this machine for it. Other errors are of all.
_OF_ONE_FORM = (BuildError, CalibrationError, MissingHardware, ParityError, RangeError)


def candidates(options: Namespace) -> Iterator[Request]:
    """A request for each format and precision that is worth serving on a CPU.

    A format that takes minutes is a candidate if the options name it. A quantised network is one if
    they name images to calibrate with. A precision that they name is the only one.

    Args:
        options: The options of an export, from `seresnext101_triton.export.options.parse`.

    Raises:
        OptionError: Two options do not go together, or a format is unknown.
    """
    for name in dict.fromkeys((*_FORMATS, *filter(None, options.formats.split(",")))):
        if name not in FORMATS:
            request_of(options)  # raises the error that names the formats
            continue
        for precision in FORMATS[name].cpu_precisions:
            if options.precision not in (None, precision.name):
                continue
            changes = {"formats": name, "precision": precision.name}
            if not precision.quantized:
                changes |= {action.dest: action.default for action in options.of_int8}
            elif options.calibration is None and options.precision is None:
                continue
            yield request_of(Namespace(**vars(options) | changes))


def export_candidates(
    options: Namespace, repository: Path, reporter: Reporter
) -> dict[str, Request]:
    """Export every candidate. One that its gate refuses is left out.

    Args:
        options: The options of an export. The repository that they name does not change.
        repository: Where the candidates are published.
        reporter: What is told of the exports, and of each candidate that is left out.

    Returns:
        For each model that was published, the request that it came from.

    Raises:
        ToolkitError: None could be exported. It is the error of the first.
        PerfError: The options name a precision that is not served on a CPU.
    """
    made: dict[str, Request] = {}
    errors: list[ExportError] = []

    def attempt(group: Sequence[Request]) -> None:
        formats = tuple(each for candidate in group for each in candidate.formats)
        try:
            outcomes = export(replace(group[0], formats=formats, repository=repository), reporter)
        except _OF_ONE_FORM as error:
            if len(group) > 1:
                for candidate in group:
                    attempt([candidate])
                return
            errors.append(error)
            reporter.note(f"left out: {error}")
        else:
            made.update(zip((outcome.model for outcome in outcomes), group, strict=True))

    # Formats of one precision share the answers of the network, which take a while to compute.
    for _, group in groupby(candidates(options), key=lambda candidate: candidate.precision):
        attempt(list(group))
    if not made:
        raise (
            errors[0]
            if errors
            else PerfError(f"no format serves {options.precision} on a CPU: leave `precision` out")
        )
    return made


def export_best(request: Request, setting: Setting, repository: Path, reporter: Reporter) -> str:
    """Publish the best candidate, with its setting in its config, and return its model's name.

    Raises:
        ToolkitError: It cannot be published. The repository is unchanged.
    """
    serving = replace(
        request.serving,
        instances=setting.instances,
        threads=setting.threads,
        batcher=setting.max_batch > 0,
    )
    return export(replace(request, repository=repository, serving=serving), reporter)[0].model
