"""What clients send: normalised values, pixels, or the image files as they are.

The client is this project's, which decodes the photographs itself for the first two. So the work of
both sides counts in every way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, product
from pathlib import Path
from statistics import median

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.client.server_side import IMAGE_SUFFIX
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.serving import MeasuredServer
from seresnext101_triton.perf.turns import Ratio, ratio_of, take_turns

PIXEL_SUFFIX = "_uint8"
_WARMUP_ROUNDS = 1


@dataclass(frozen=True)
class InputOptions:
    """How the ways are measured.

    Attributes:
        in_flight: Numbers of requests at the same time. 1 is always measured.
        rounds: The number of turns of each way, two at least. Many short turns give narrower
            intervals than few long ones: for 3 rounds, the interval is 9.9 standard errors to each
            side, for 10 rounds 3.2.
        seconds: The duration of a turn.
    """

    in_flight: Sequence[int] = (8, 16)
    rounds: int = 10
    seconds: float = 3.0

    @property
    def loads(self) -> list[int]:
        """The numbers of requests, with 1, in order."""
        return sorted({1, *self.in_flight})


@dataclass(frozen=True)
class Way:
    """One way to send images to a network.

    Attributes:
        sent: `values`, `pixels` or `files`.
        model: The model that takes them.
        bytes: The mean length of the input of one photograph, in bytes.
        throughput: Photographs per second of each turn, by the number of requests in flight.
        server_cpu_ms: The processor time of the server for one photograph in each turn, in
            milliseconds, by the number of requests in flight. Empty for a server that perf did not
            start.
    """

    sent: str
    model: str
    bytes: float
    throughput: dict[int, Sequence[float]]
    server_cpu_ms: dict[int, Sequence[float]]

    def latency_ms(self) -> float:
        """The median time from a file to its answer with one request at a time, in milliseconds."""
        return 1000 / median(self.throughput[1])

    def ratio(self, other: Way, in_flight: int) -> Ratio:
        """Its throughput, divided by that of another way."""
        return ratio_of(self.throughput[in_flight], other.throughput[in_flight])


def measure_inputs(
    server: MeasuredServer,
    model: str,
    options: InputOptions,
    after_turn: Callable[[], object] = lambda: None,
) -> list[Way]:
    """Classify photographs in every way that a server offers for a network, by turns.

    Args:
        server: The server.
        model: The model that takes normalised values. The others are `<model>_uint8` and
            `<model>_image`.
        options: How they are measured.
        after_turn: A function that is called after every turn.

    Raises:
        PerfError: The server has none of the other models.
        ClientError: A model does not answer.
    """
    ready = set(server.models())
    names = {
        "values": model,
        "pixels": model + PIXEL_SUFFIX,
        "files": model + IMAGE_SUFFIX,
    }
    offered = {sent: name for sent, name in names.items() if name in ready}
    if len(offered) < 2 or model not in ready:
        raise PerfError(
            f"there is nothing to compare: the server must have {model}, and "
            f"{names['pixels']} (`input=uint8`) or {names['files']} (`image_input`)"
        )
    loads = options.loads
    cpu: dict[str, list[float]] = {}
    contestants = {
        f"{sent} {load}": partial(
            _turn, server, name, load, options.seconds, cpu.setdefault(f"{sent} {load}", [])
        )
        for load, (sent, name) in product(loads, offered.items())
    }
    turns = take_turns(
        contestants, options.rounds, warmup_rounds=_WARMUP_ROUNDS, after_turn=after_turn
    ).turns
    return [
        Way(
            sent,
            name,
            _input_bytes(server.url, name),
            {load: turns[f"{sent} {load}"] for load in loads},
            {load: found for load in loads if (found := cpu[f"{sent} {load}"][_WARMUP_ROUNDS:])},
        )
        for sent, name in offered.items()
    ]


def _turn(
    server: MeasuredServer, model: str, in_flight: int, seconds: float, cpu: list[float]
) -> float:
    """Classify photographs for some seconds, and return how many were answered per second."""
    before, answered = server.counters(model), 0
    with Classifier(server.url, model) as classifier:
        started = time.perf_counter()
        photographs = _until(started + seconds)
        for answer in classifier.stream(photographs, batch=1, in_flight=in_flight, ordered=False):
            if answer.error:
                raise answer.error
            answered += 1
        taken = time.perf_counter() - started
    after = server.counters(model)
    if before.cpu_s is not None and after.cpu_s is not None:
        cpu.append(1000 * (after.cpu_s - before.cpu_s) / answered)
    return answered / taken


def _until(end: float) -> Iterator[Path]:
    """Photographs, until a time of `time.perf_counter`, and one at least."""
    for photograph in cycle(sample_photographs()):
        yield photograph
        if time.perf_counter() > end:
            return


def _input_bytes(url: str, model: str) -> float:
    with Classifier(url, model) as classifier:
        tensors = [classifier.prepare(path) for path in sample_photographs()]
    lengths = [len(tensor[0]) if tensor.dtype == object else tensor.nbytes for tensor in tensors]
    return sum(lengths) / len(lengths)
