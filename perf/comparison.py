"""Comparisons of two or more ways to get answers: served models, runtimes, clients and peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from seresnext101_triton.client import Classifier
from seresnext101_triton.perf import results
from seresnext101_triton.perf.console import SILENT, Progress
from seresnext101_triton.perf.errors import PerfError, UsageError
from seresnext101_triton.perf.load import LoadGenerator
from seresnext101_triton.perf.options import ARCHITECTURE, REPOSITORY
from seresnext101_triton.perf.peers.launch import User, closed_loop, running_peer
from seresnext101_triton.perf.peers.network import argument_of
from seresnext101_triton.perf.raw import RawModel
from seresnext101_triton.perf.records import Load, Machine, Point
from seresnext101_triton.perf.serving import serving
from seresnext101_triton.perf.turns import Comparison, Turn, take_turns

SAVED_SUFFIX = ".jsonl"
THROUGHPUT, P99 = MEASURES = ("throughput", "p99")


@dataclass(frozen=True)
class CompareOptions:
    """How contestants are compared.

    Attributes:
        repository: The model repository.
        url: `host:port` of a server that already runs. If it is empty, a server is started.
        batch: The number of images in one request.
        concurrency: The number of requests in flight.
        rounds: The number of turns of each contestant, two at least.
        seconds: The duration of one turn.
        measure: What is compared: `throughput`, or `p99`, the 99th percentile of the latency.
        peer_architecture: The architecture of the peers' network.

    Raises:
        UsageError: `concurrency` is too large.
    """

    repository: Path = REPOSITORY
    url: str = ""
    batch: int = 1
    concurrency: int = 4
    rounds: int = 8
    seconds: float = 6.0
    measure: str = THROUGHPUT
    peer_architecture: str = ARCHITECTURE

    def __post_init__(self) -> None:
        Load("", self.batch, self.concurrency)  # refuses what no machine can hold


@dataclass(frozen=True)
class Contestant:
    """One side of a comparison, as its text names it.

    Attributes:
        kind: A key of `_TURNS`: `raw`, `client`, `peer`, or empty for a model that
            perf_analyzer asks.
        name: The name of the model or of the peer.
        url: `host:port` of the server to ask; empty for the server that all contestants share.
    """

    kind: str
    name: str
    url: str

    @classmethod
    def parse(cls, text: str) -> Contestant:
        """Read MODEL, raw:MODEL, client:MODEL, peer:NAME[/MODEL] or MODEL@HOST:PORT.

        MODEL may be one version of a model, MODEL@N.
        """
        kind, colon, rest = text.partition(":")
        if not (colon and kind in _TURNS):
            kind, rest = "", text
        name, at, url = rest.rpartition("@")
        if not at or url.isdigit() or kind not in _SERVED_KINDS:
            name, url = rest, ""
        return cls(kind, name, url)

    @property
    def shares_server(self) -> bool:
        """Whether it needs the server that all contestants share."""
        return self.kind in _SERVED_KINDS and not self.url


def compare(
    contestants: Sequence[str],
    options: CompareOptions | None = None,
    progress: Progress = SILENT,
) -> Comparison:
    """Let contestants take turns, and measure their images per second or their latency.

    Args:
        contestants: Two at least; the first is the base of the ratios. Each is a model of the
            repository, `raw:MODEL` (its artifact in its runtime, without a server; call
            `seresnext101_triton.perf.raw.use_server_allocator` before), `client:MODEL` (photographs
            through this project's client), `peer:fastapi`, `peer:litserve`, `peer:pytriton`,
            `peer:rayserve` (photographs to the eager network in another server), `peer:NAME/MODEL`
            (to the artifact of a model in it) or `MODEL@HOST:PORT`. `MODEL@N` is version N of a
            model; two versions are served side by side.
        options: The options; None means the default of each.
        progress: It is advanced after each of `len(contestants) * options.rounds` turns.

    Raises:
        UsageError: There are fewer than two contestants, or one has no latency.
        PerfError: One cannot be measured.
        ClientError: A model does not answer.
        ServerError: The repository cannot be served.
    """
    options = options or CompareOptions()
    if len(contestants) < 2:
        raise UsageError(
            "a comparison needs two contestants at least: name models, raw:MODEL, client:MODEL, "
            "peer:NAME, MODEL@HOST:PORT or result files"
        )
    parsed = [Contestant.parse(text) for text in contestants]
    served = sorted({each.name for each in parsed if each.shares_server})
    with ExitStack() as stack:
        url = ""
        if served:
            server = serving(options.repository, served, options.url)
            url = stack.enter_context(server).url
        session = _Session(options, url, stack)
        turns = {
            name: _TURNS[contestant.kind](contestant, session)
            for name, contestant in zip(_names(contestants), parsed, strict=True)
        }
        return take_turns(turns, options.rounds, after_turn=progress.advance)


def _names(contestants: Sequence[str]) -> list[str]:
    """The contestants' names. The same contestant more than once shows how large the noise is."""
    earlier = [contestants[:index].count(name) for index, name in enumerate(contestants)]
    suffixes = ["", " again", *(f" again ({count})" for count in range(2, len(contestants)))]
    return [name + suffixes[count] for name, count in zip(contestants, earlier, strict=True)]


@dataclass(frozen=True)
class _Session:
    """What the contestants of one comparison share.

    Attributes:
        options: The options of the comparison.
        shared_url: The server of all contestants without a URL of their own.
        resources: Whatever must be closed when the comparison ends.
    """

    options: CompareOptions
    shared_url: str
    resources: ExitStack

    def url_of(self, contestant: Contestant) -> str:
        """The server of a contestant.

        Raises:
            PerfError: The contestant names a server that does not serve its model.
        """
        if not contestant.url:
            return self.shared_url
        server = serving(self.options.repository, [contestant.name], contestant.url)
        return self.resources.enter_context(server).url


def _raw_turn(contestant: Contestant, session: _Session) -> Turn:
    if session.options.measure == P99:
        raise UsageError(f"raw:{contestant.name} answers no requests: leave it out, or `measure`")
    raw = RawModel(session.options.repository, contestant.name, session.options.batch)
    return lambda: raw.throughput(session.options.seconds)


def _peer_turn(contestant: Contestant, session: _Session) -> Turn:
    options = session.options
    name, _, model = contestant.name.partition("/")
    network = argument_of(options.repository, model, options.peer_architecture)
    peer = running_peer(name, options.concurrency, network)
    return _loop_turn(session.resources.enter_context(peer), options)


def _client_turn(contestant: Contestant, session: _Session) -> Turn:
    classifier = Classifier(session.url_of(contestant), contestant.name)
    session.resources.enter_context(classifier)

    def send(file: bytes) -> list[int]:
        return [prediction.index for prediction in classifier.classify(file)]

    users: list[User] = [send] * session.options.concurrency
    return _loop_turn(users, session.options)


def _loop_turn(users: Sequence[User], options: CompareOptions) -> Turn:
    def turn() -> float:
        loop = closed_loop(users, options.seconds)
        return loop.p99_ms if options.measure == P99 else loop.throughput

    return turn


def _served_turn(contestant: Contestant, session: _Session) -> Turn:
    options = session.options
    generator = session.resources.enter_context(LoadGenerator(session.url_of(contestant)))
    load = Load(contestant.name, options.batch, options.concurrency)

    def turn() -> float:
        measured = generator.measure_for(load, options.seconds)
        return measured.latency["p99"] if options.measure == P99 else measured.throughput

    return turn


_TURNS: dict[str, Callable[[Contestant, _Session], Turn]] = {
    "": _served_turn,
    "raw": _raw_turn,
    "client": _client_turn,
    "peer": _peer_turn,
}
_SERVED_KINDS = ("", "client")


def compare_saved(paths: Sequence[Path]) -> tuple[list[str], Comparison]:
    """Compare two or more saved sweeps. Each load that all of them hold counts as one round.

    The loads were not measured in turns, so the ratios contain every change of the machine too.

    Returns:
        The loads that all files hold, and their images per second by file. If a file holds a load
        more than once, the last point counts.

    Raises:
        PerfError: They are of several machines, or share fewer than two loads.
        ResultsError: A file cannot be read.
    """
    machines: set[Machine] = set()
    measured: dict[str, dict[str, float]] = {}
    for path in paths:
        points = [record for record in results.read(path) if isinstance(record, Point)]
        machines |= {point.machine for point in points}
        measured[str(path)] = {str(point.load): point.throughput for point in points}
    if len(machines) > 1:
        raise PerfError(
            f"the saved runs are of {len(machines)} machines, whose ratio would say nothing about "
            "what was measured"
        )
    first, *others = measured.values()
    common = [load for load in first if all(load in loads for loads in others)]
    if len(common) < 2:
        raise PerfError(
            f"{', '.join(measured)} share {len(common)} loads, and an interval needs two: "
            "sweep the same loads into each"
        )
    turns = {path: [loads[load] for load in common] for path, loads in measured.items()}
    return common, Comparison(turns)
