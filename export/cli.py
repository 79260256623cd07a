"""The command line: `python -m export --weights SOURCE`, and the commands about versions."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from seresnext101_triton import as_typed
from seresnext101_triton.client import timings
from seresnext101_triton.client.errors import OutputError, ToolkitError
from seresnext101_triton.client.output import printing, report, say, standard_output, with_flags
from seresnext101_triton.export import commands, interruption
from seresnext101_triton.export.formats import FORMATS
from seresnext101_triton.export.options import parse

if TYPE_CHECKING:
    from seresnext101_triton.client.contract import Preprocessing
    from seresnext101_triton.export.network import Architecture
    from seresnext101_triton.export.quantization import Quantization
    from seresnext101_triton.export.request import Request
    from seresnext101_triton.export.serving import ImageInput

_TOO_LARGE = (
    "this machine has not enough memory for this export: choose a smaller `max_batch`, `crop`, "
    "`resize` or number of `classes`"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        KeyboardInterrupt: A signal has interrupted the export.
            `seresnext101_triton.export.interruption.run` turns this into exit code 130.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in commands.COMMANDS:
        return commands.run(given[0], given[1:])
    options = parse(given)
    with timings.measured(options.timings, say):
        try:
            return _export(options)
        except OutputError as error:
            return report(error)


def _export(options: argparse.Namespace) -> int:
    """Run an export and return the exit code of the command."""
    from seresnext101_triton.export.reporting import Reporter

    flags = options.flags
    try:
        with timings.part("importing"):
            from seresnext101_triton.export.pipeline import export
            from seresnext101_triton.export.sharing import opened

        started = time.monotonic()
        request, left_out = request_of(options), ""
        if options.partial:
            request, left_out = _possible(request)
        with opened(options.repository) as place:
            reporter = Reporter(
                quiet=options.quiet, reword=lambda text: place.shown(with_flags(text, flags))
            )
            outcomes = export(replace(request, repository=place.folder), reporter)
    except ToolkitError as error:
        interruption.check()  # an interrupted import or callback may look like any error
        return report(error, flags)
    except (MemoryError, RuntimeError) as error:
        interruption.check()
        if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
            raise
        from seresnext101_triton.export.errors import ExportError

        return report(ExportError(_TOO_LARGE), flags)
    from seresnext101_triton.export.summary import conclude

    conclude(outcomes, reporter, time.monotonic() - started)
    if options.json:
        with printing("the export is done"), standard_output() as file:
            documents = [outcome.to_json() | timings.to_json() for outcome in outcomes]
            file.write(f"{place.shown(json.dumps(documents, indent=2))}\n")
    if left_out:
        print(left_out, file=sys.stderr)
        return 3
    return 0


def request_of(options: argparse.Namespace) -> Request:
    """The options of `parse` as one validated value.

    Raises:
        OptionError: They do not go together.
    """
    from seresnext101_triton.client.contract import OutputKind
    from seresnext101_triton.export.request import Request
    from seresnext101_triton.export.serving import Serving

    _refuse_without_format(options)
    configured = {name: format.with_arguments(options) for name, format in FORMATS.items()}
    names = filter(None, options.formats.split(","))
    return Request(
        weights=options.weights,
        repository=Path(options.repository),
        formats=tuple(configured.get(name, name) for name in names),
        precision=options.precision,
        quantization=_quantization(options),
        fp32_squeeze=options.fp32_squeeze,
        name=options.name,
        architecture=_architecture(options),
        output=OutputKind(options.output),
        preprocessing=_preprocessing(options),
        serving=Serving(
            max_batch=options.max_batch,
            device=options.device,
            instances=options.instances,
            threads=options.threads,
            queue_size=options.queue_size,
            queue_timeout_ms=options.queue_timeout_ms,
            queue_delay_us=options.queue_delay_us,
            batcher=options.batcher,
            response_cache=options.response_cache,
        ),
        image_input=_image_input(options),
        target=options.target,
        labels=options.labels,
        ema=options.ema,
        force=options.force,
        allow_error=options.allow_error,
    )


def _image_input(options: argparse.Namespace) -> ImageInput | None:
    from seresnext101_triton.export.errors import OptionError
    from seresnext101_triton.export.serving import ImageInput

    if options.image_input is None:
        if options.image_instances is not None:
            raise OptionError("`image_instances` goes with `image_input`: name both")
        return None
    return ImageInput(options.image_input, options.image_instances or 0)


def _refuse_without_format(options: argparse.Namespace) -> None:
    """Refuse the options of a format that is not exported.

    Raises:
        OptionError: One was given.
    """
    from seresnext101_triton.export.errors import OptionError

    for name, actions in options.of_formats.items():
        if name not in options.formats.split(","):
            for given in _given(options, actions):
                raise OptionError(f"`{given}` is for {name}: name this format in `formats`")


def _given(options: argparse.Namespace, actions: Iterable[argparse.Action]) -> list[str]:
    """The names of the options that have another value than their default."""
    return [action.dest for action in actions if getattr(options, action.dest) != action.default]


def _architecture(options: argparse.Namespace) -> Architecture:
    from seresnext101_triton.export.errors import OptionError
    from seresnext101_triton.export.network import ARCHITECTURES

    architecture = ARCHITECTURES.get(options.architecture)
    if architecture is None:
        known = ", ".join(ARCHITECTURES)
        raise OptionError(f"unknown architecture {options.architecture!r}: choose from {known}")
    if options.classes is None:
        return architecture
    if not options.weights.startswith("seeded"):
        raise OptionError("`classes` is for seeded weights: any others tell their own class count")
    if options.classes < 1:
        raise OptionError(f"`classes` must be at least 1, not {options.classes}")
    return replace(architecture, classes=options.classes)


def _preprocessing(options: argparse.Namespace) -> Preprocessing:
    from seresnext101_triton.client.contract import NORMALISED, PIXELS, Preprocessing
    from seresnext101_triton.client.errors import ContractError
    from seresnext101_triton.export.errors import OptionError

    given = {"mean": options.mean, "std": options.std}
    try:
        return Preprocessing(
            resize=options.resize or options.crop + 32,
            crop=options.crop,
            interpolation=options.interpolation,
            layout=PIXELS if options.input == "uint8" else NORMALISED,
            **{name: value for name, value in given.items() if value},
        )
    except ContractError as error:
        raise OptionError(str(error)) from None


def _quantization(options: argparse.Namespace) -> Quantization | None:
    from seresnext101_triton.export.errors import OptionError
    from seresnext101_triton.export.quantization import Quantization

    if options.calibration is None:
        for given in _given(options, options.of_int8):
            raise OptionError(
                f"`{given}` is for INT8: name it with `precision=int8` and `calibration=DIR`"
            )
        return None
    return Quantization(
        options.calibration,
        options.calibration_method,
        tuple(filter(None, options.keep_fp32.split(","))),
        options.truth,
        options.min_agreement,
    )


def _possible(request: Request) -> tuple[Request, str]:
    """The request without what this machine cannot make, and one line on what was left out.

    Raises:
        MissingHardware: Nothing is left of it.
    """
    from seresnext101_triton.export.errors import MissingHardware
    from seresnext101_triton.export.pipeline import lacking

    lacks = lacking(request)
    formats = tuple(each.format for each in request.variants if each.format.name not in lacks)
    line = as_typed(
        "; ".join(
            f"left out: {name}, because this machine lacks {what}" for name, what in lacks.items()
        )
    )
    if not formats:
        raise MissingHardware(line)
    return replace(request, formats=formats), line
