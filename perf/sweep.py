"""A sweep: many loads on one server, one after the other, each stored as soon as it is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from seresnext101_triton.perf import results
from seresnext101_triton.perf.console import SILENT, Progress
from seresnext101_triton.perf.load import LoadGenerator
from seresnext101_triton.perf.machine import circumstances
from seresnext101_triton.perf.options import REPOSITORY
from seresnext101_triton.perf.records import Load, Point
from seresnext101_triton.perf.serving import MeasuredServer, serving


@dataclass(frozen=True)
class LoadGrid:
    """All combinations of models, batch sizes, levels, protocols and memories.

    Attributes:
        models: The names of the served models.
        batches: The numbers of images in one request.
        concurrencies: The numbers of requests in flight.
        rates: Requests per second. If there are any, they replace the concurrencies.
        protocols: `grpc`, `http` or both.
        shared_memory: Whether each load is also measured through system shared memory.
    """

    models: Sequence[str]
    batches: Sequence[int] = (1,)
    concurrencies: Sequence[int] = (1,)
    rates: Sequence[float] = ()
    protocols: Sequence[str] = ("grpc",)
    shared_memory: bool = False

    def loads(self) -> list[Load]:
        """Every combination."""
        memories = (False, True) if self.shared_memory else (False,)
        levels = [(0, rate) for rate in self.rates] or [
            (level, 0.0) for level in self.concurrencies
        ]
        grid = product(self.models, self.batches, self.protocols, memories, levels)
        return [
            Load(model, batch, concurrency, rate, protocol, memory)
            for model, batch, protocol, memory, (concurrency, rate) in grid
        ]


@dataclass(frozen=True)
class Sweep:
    """Measures loads on one server.

    Attributes:
        server: The server.
        command: The command that measures the loads again; it is stored with the results.
        path: The file of results to add to. None stores nothing.
        minimum_window_s: The shortest window of a measurement, in seconds.
        again: Whether to measure the loads that the file already holds.
    """

    server: MeasuredServer
    command: str = ""
    path: Path | None = None
    minimum_window_s: float = 1.0
    again: bool = False

    def run(self, loads: Sequence[Load], progress: Progress = SILENT) -> Iterator[Point]:
        """Measure the loads that the file does not hold yet.

        A stored point counts if its machine, model, version, config and load are the same.

        Yields:
            The point of each load, in the order of the loads, stored points too.

        Raises:
            AnalyzerFailed: perf_analyzer ended without a measurement. The file holds the earlier
                points.
            ResultsError: The file cannot be read or written.
            ClientError: A model does not answer.
        """
        models = {
            name: self.server.describe(name) for name in dict.fromkeys(load.model for load in loads)
        }
        around = circumstances(self.command)
        known = self._stored()
        windows: dict[tuple[str, int], float] = {}
        with LoadGenerator(self.server.url, self.server.http_url) as generator:
            for load in loads:
                model, shape = models[load.model], (load.model, load.batch)
                point = known.get((around.machine, model, load))
                if point is None:
                    if shape not in windows:
                        windows[shape] = generator.window_s(load, self.minimum_window_s)
                    retry = f"{load}: unstable, tried again with longer windows"
                    before = self.server.counters(load.model)
                    note = partial(progress.note, retry)
                    values = vars(around) | vars(generator.measure(load, windows[shape], note))
                    usage = self.server.usage(before, self.server.counters(load.model))
                    point = Point(**values, model=model, load=load, server=usage)
                    if self.path:
                        results.append(self.path, point)
                progress.advance()
                p99 = f"p99 {point.latency['p99']:.1f} ms"
                progress.note(f"{load}: {point.throughput:.1f} images/s, {p99}")
                yield point

    def _stored(self) -> dict[object, Point]:
        if self.path is None or self.again:
            return {}
        points = [
            each for each in results.read(self.path, may_be_absent=True) if isinstance(each, Point)
        ]
        return {(point.machine, point.model, point.load): point for point in points}


def measure(
    loads: Sequence[Load],
    *,
    repository: Path = REPOSITORY,
    url: str = "",
    http_url: str = "",
    results: Path | None = None,
) -> list[Point]:
    """Measure loads with perf_analyzer.

    Args:
        loads: The loads, on one or several models.
        repository: The model repository to serve; not used if there is a `url`.
        url: `host:port` of the gRPC endpoint of a server that already runs.
        http_url: `host:port` of its HTTP endpoint, for loads over HTTP.
        results: A file of results to add to, and to read known points from. None stores nothing.

    Returns:
        One point for each load, in the order of the loads.

    Raises:
        PerfError: There is no perf_analyzer, it failed, or the file cannot be written.
        ClientError: A model does not answer.
        ServerError: The repository cannot be served.
    """
    models = sorted({load.model for load in loads})
    with serving(repository, models, url, http_url) as server:
        return list(Sweep(server, path=results).run(loads))
