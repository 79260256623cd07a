"""The options that several commands share. An option means the same in every command."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from seresnext101_triton.client.options import named, positive
from seresnext101_triton.server.store import is_url

REPOSITORY = Path("model_repository")
RESULTS = Path("perf/results/results.jsonl")
ARCHITECTURE = "se-resnext101-32x4d"
_SHORTEST_S, _LONGEST_S = 0.01, 1e6
_FEWEST_ROUNDS = 3
_MOST_PIXELS = 89_478_485  # of the images that the client opens
_MOST = 100_000  # turns, images and so on: with more, no command would come to its end
MOST_AT_ONCE = 4096  # images in one request, and requests in flight
_LOWEST_RATE, MOST_RATE = 0.01, 100_000  # requests per second
if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Options = TypeVar("_Options", bound="DataclassInstance")


def add_repository(parser: argparse.ArgumentParser) -> None:
    """Add `--repository DIR`: the model repository."""
    parser.add_argument(
        "--repository",
        type=_folder,
        default=REPOSITORY,
        metavar="DIR",
        help="the model repository (default: model_repository)",
    )


def _folder(text: str) -> Path:
    if is_url(text):
        raise argparse.ArgumentTypeError(f"it is a folder of this machine, not {text!r}")
    return Path(named(text))


def add_name(parser: argparse.ArgumentParser) -> None:
    """Add `--name NAME`: the common part of the names of a network's models."""
    parser.add_argument(
        "--name",
        default="seresnext101",
        help="the models are NAME_torchscript, NAME_openvino_int8 ... (default: seresnext101)",
    )


def add_p99(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Add `--p99-ms MS`: the bound on the latency."""
    parser.add_argument(
        "--p99-ms",
        type=above_zero,
        required=required,
        metavar="MS",
        help="the bound on the 99th percentile of the latency"
        + ("" if required else " (default: none)"),
    )


def size(text: str) -> tuple[int, int]:
    """Read the width and the height of an image in pixels, such as 500x375."""
    width, separator, height = text.partition("x")
    if not separator or not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be two numbers such as 500x375, not {text!r}")
    if not 0 < int(width) * int(height) <= _MOST_PIXELS:
        raise argparse.ArgumentTypeError(f"must have 1 to {_MOST_PIXELS} pixels, not {text!r}")
    return int(width), int(height)


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add `--results FILE`: the file of JSON lines that holds the results."""
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="FILE",
        help=f"the file of results, one JSON line each (default: {RESULTS})",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document instead of a table"
    )


def add_url(parser: argparse.ArgumentParser) -> None:
    """Add `--url HOST:PORT`: a server that already runs."""
    parser.add_argument(
        "--url",
        default="",
        metavar="HOST:PORT",
        help="measure a server that already runs, instead of one that serves the repository",
    )


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add `--model NAME`, which may be repeated."""
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="the model to measure; may be repeated (default: all)",
    )


def add_architecture(parser: argparse.ArgumentParser, name: str = "--architecture") -> None:
    """Add the architecture of the eager network."""
    parser.add_argument(
        name,
        default=ARCHITECTURE,
        metavar="NAME",
        help=f"the architecture of the eager network: {ARCHITECTURE} (default) or se-resnext-tiny",
    )


def add_rounds(
    parser: argparse.ArgumentParser,
    default: int,
    help: str,
    type: Callable[[str], int] | None = None,
) -> None:
    """Add `--rounds N`, which may also be written `--turns N`. It is read as by `add_number`."""
    help = f"{help} (default: {default})"
    names = ("--rounds", "--turns")
    parser.add_argument(
        *names, dest="rounds", type=type or whole, default=default, metavar="N", help=help
    )


def add_number(
    parser: argparse.ArgumentParser,
    name: str,
    default: float,
    help: str,
    type: Callable[[str], Any] | None = None,
) -> None:
    """Add an option with a number, whose help text ends with its default.

    Args:
        parser: The parser of the command.
        name: The name of the option, with its dashes.
        default: The value if the option is not given.
        help: The help text without the default.
        type: The function that reads the value; `duration` means seconds. The default is `whole`.
    """
    metavar = "S" if type is duration else "N"
    help = f"{help} (default: {default:g})"
    parser.add_argument(name, type=type or whole, default=default, metavar=metavar, help=help)


def add_numbers(
    parser: argparse._ActionsContainer, name: str, default: tuple[int, ...], help: str
) -> None:
    """Add an option with a list of numbers, whose help text ends with its default."""
    if default:
        help = f"{help} (default: {','.join(map(str, default))})"
    parser.add_argument(name, type=numbers, default=default, metavar="N,N", help=help)


def values(kind: type[_Options], arguments: argparse.Namespace) -> _Options:
    """Make a dataclass from the arguments that are called like its fields."""
    return kind(**{field.name: getattr(arguments, field.name) for field in fields(kind)})


def whole(text: str, most: int = _MOST) -> int:
    """Read a whole number above 0, for argparse."""
    if (value := positive(text)) > most:
        raise argparse.ArgumentTypeError(f"must be at most {most}, not {text!r}")
    return value


def at_once(text: str) -> int:
    """Read a number of images in one request, or of requests in flight, for argparse."""
    return whole(text, MOST_AT_ONCE)


def numbers(text: str) -> tuple[int, ...]:
    """Read a list of what `at_once` reads, for argparse."""
    try:
        return tuple(at_once(part) for part in text.split(","))
    except argparse.ArgumentTypeError as error:
        message = f"{text!r} is not a list of numbers like 1,8,32: one {error}"
        raise argparse.ArgumentTypeError(message) from None


def rates(text: str) -> tuple[float, ...]:
    """Read a list of requests per second, for argparse."""
    found = tuple(map(_number, text.split(",")))
    if all(_LOWEST_RATE <= rate <= MOST_RATE for rate in found):
        return found
    raise argparse.ArgumentTypeError(
        f"must be rates from {_LOWEST_RATE} to {MOST_RATE} like 0.5,2,8, not {text!r}"
    )


def above_zero(text: str) -> float:
    """Read a number above 0, for argparse."""
    if 0 < (value := _number(text)) < math.inf:
        return value
    raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")


def duration(text: str) -> float:
    """Read a number of seconds in which something can be measured, for argparse."""
    if _SHORTEST_S <= (value := _number(text)) <= _LONGEST_S:
        return value
    message = f"must be from {_SHORTEST_S:g} to {_LONGEST_S:.0f} seconds, not {text!r}"
    raise argparse.ArgumentTypeError(message)


def share(text: str) -> float:
    """Read a number from 0 to 1, for argparse."""
    if 0 <= (value := _number(text)) <= 1:
        return value
    raise argparse.ArgumentTypeError(f"must be a share from 0 to 1, not {text!r}")


def _number(text: str) -> float:
    """The number that a text is; NaN if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def rounds(text: str) -> int:
    """Read a number of rounds that gives an interval, for argparse.

    Of two rounds, the 99 % interval has 64 standard errors to each side, and says nothing.
    """
    if (count := whole(text)) >= _FEWEST_ROUNDS:
        return count
    raise argparse.ArgumentTypeError(f"an interval needs {_FEWEST_ROUNDS} rounds at least")


def protocols(text: str) -> tuple[str, ...]:
    """Read `grpc`, `http` or both, for argparse."""
    if set(found := tuple(text.split(","))) <= {"grpc", "http"}:
        return found
    raise argparse.ArgumentTypeError(f"{text!r} is not grpc, http or grpc,http")
