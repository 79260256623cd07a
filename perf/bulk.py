"""Many photographs through the client and a server, beside what their parts alone would allow.

The parts are the network and the preparation of the images, both measured without a server. If
nothing else needed a core, and all cores were always busy, an image would take the time that the
network needs for it with all cores, and the time that one core needs to prepare it, divided by the
number of cores.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from seresnext101_triton.client import Answer, Classifier
from seresnext101_triton.client.images import load_image, sample_photographs
from seresnext101_triton.perf.console import SILENT, Progress
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.preprocessing import jpeg
from seresnext101_triton.perf.raw import RawModel
from seresnext101_triton.perf.serving import serving
from seresnext101_triton.perf.turns import Comparison, take_turns
from seresnext101_triton.server.cores import usable_cores

PARTS, STREAM = "the parts", "the stream"
_BATCH = 8  # of the network alone


@dataclass(frozen=True)
class BulkOptions:
    """What is measured, and for how long.

    Attributes:
        size: Width and height of the JPEG files, in pixels.
        rounds: The number of turns of each, two at least.
        seconds: The duration of a turn; that of the parts is divided between them.
    """

    size: tuple[int, int] = (500, 375)
    rounds: int = 8
    seconds: float = 4.0


def measure_bulk(
    repository: Path, model: str, options: BulkOptions, progress: Progress = SILENT
) -> Comparison:
    """Classify JPEG files with `Classifier.stream`, in turns with its parts.

    Args:
        repository: The model repository. A server on it is started on this machine.
        model: The name of a model that this toolkit published there.
        options: What is measured.
        progress: It is advanced after each of `2 * options.rounds` turns.

    Returns:
        Images per second of `PARTS` and of `STREAM`.

    Raises:
        PerfError: There is no such model, or a photograph has no answer.
        ServerError: The repository cannot be served.
    """
    seconds = options.seconds
    files = [jpeg(load_image(path), options.size) for path in sample_photographs()]
    raw = RawModel(repository, model, _BATCH)
    with serving(repository, [model]) as server, Classifier(server.url, model) as classifier:

        def parts() -> float:
            network_s = 1 / raw.throughput(seconds / 2)
            begun, prepared = time.thread_time(), 0
            while time.thread_time() - begun < seconds / 4:
                for file in files:
                    classifier.prepare(file)
                prepared += len(files)
            preparing_s = (time.thread_time() - begun) / prepared
            return 1 / (network_s + preparing_s / usable_cores())

        def stream() -> float:
            with closing(classifier.stream(cycle(files), ordered=False)) as answers:
                return _rate(answers, seconds)

        turns = {PARTS: parts, STREAM: stream}
        return take_turns(turns, options.rounds, warmup_rounds=1, after_turn=progress.advance)


def _rate(answers: Iterator[Answer], seconds: float) -> float:
    """Answers per second, from the first one on.

    Raises:
        PerfError: A photograph has no answer.
    """
    next(answers)
    begun, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begun) < seconds or not count:
        answer = next(answers)
        if answer.error:
            raise PerfError(f"a photograph has no answer: {answer.error}")
        count += 1
    return count / elapsed
