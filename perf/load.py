"""Runs perf_analyzer, which sends requests to a served model and measures its answers."""

from __future__ import annotations

import base64
import csv
import json
import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.perf import analyzer
from seresnext101_triton.perf.errors import AnalyzerFailed, AnalyzerHung, Unstable
from seresnext101_triton.perf.records import PERCENTILES, Load, Measurement

_UNSTABLE = (
    "Failed to obtain stable measurement",
    "No valid requests recorded within time interval",
    "failed to find the requested model version",  # the server counted nothing in a window
)
# perf_analyzer measures in windows of equal length. It ends as soon as three windows agree.
_WINDOWS = 3  # the number of windows in a row that must agree
_MAX_WINDOWS = 8  # the largest number of windows of one measurement
_AGREEMENT = 10  # percent by which the windows of a stable measurement may differ
_NO_AGREEMENT = 999  # percent: any three windows agree, if each has an answer
# perf_analyzer waits for an answer without end. So each run has a limit, far above what it needs.
_LIMIT_S = 120.0
_LIMIT_WINDOWS = 10 * _MAX_WINDOWS
_STARTS = 2  # times that a run which reaches its limit is started
_ATTEMPTS = 2  # attempts to get a stable measurement
_FEWEST_REQUESTS = 5  # that are sent in a window, on average
_LONG_WINDOWS_S = (2.0, 8.0, 20.0)  # for measurements without agreement
_OUTPUT_BYTES = 1 << 16  # bytes of shared memory for an answer
_PHASES = {
    "client send": "Client Send",
    "network": "Network+Server Send/Recv",
    "queue": "Server Queue",
    "input": "Server Compute Input",
    "compute": "Server Compute Infer",
    "output": "Server Compute Output",
    "client receive": "Client Recv",
}


class LoadGenerator:
    """Runs perf_analyzer with photographs that are prepared for each model. Use it with `with`.

    Args:
        url: `host:port` of the server's gRPC endpoint.
        http_url: `host:port` of its HTTP endpoint, for loads over HTTP.

    Raises:
        AnalyzerMissing: There is no perf_analyzer that runs on this machine.
    """

    def __init__(self, url: str, http_url: str = "") -> None:
        self._urls = {"grpc": url, "http": http_url}
        self._program, self._environment = analyzer.find()
        self._inputs: dict[tuple[str, int, bool], Path] = {}

    def __enter__(self) -> LoadGenerator:
        self._scratch = tempfile.TemporaryDirectory()
        self._folder = Path(self._scratch.name)
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()

    def window_s(self, load: Load, minimum_s: float = 1.0, maximum_s: float = 10.0) -> float:
        """The length of a window that holds about 25 requests of one client, in seconds.

        The requests that measure it also warm up the model.

        Raises:
            ClientError: The model does not answer.
        """
        return min(max(25 * self._warm_up(load), minimum_s), maximum_s)

    def measure(
        self, load: Load, window_s: float, on_retry: Callable[[], object] = lambda: None
    ) -> Measurement:
        """Measure until three windows agree within 10 %.

        If no three windows agree, this method measures once more with longer windows. If those do
        not agree either, the result is marked as not stable.

        Args:
            load: The load.
            window_s: The length of a window, in seconds. If a window has too few requests of a low
                rate to agree with others, the windows are longer, and the result is not stable.
            on_retry: A function that is called before the second attempt.

        Raises:
            AnalyzerFailed: perf_analyzer ended without a measurement. Either the server has ended,
                or it refuses the requests.
            AnalyzerHung: perf_analyzer did not end.
        """
        if 0 < load.rate * window_s < _FEWEST_REQUESTS:
            window_s = _FEWEST_REQUESTS / load.rate
            return self._run_without_agreement(load, [window_s, 4 * window_s], stable=False)
        for attempt in range(_ATTEMPTS):
            with suppress(Unstable):
                if attempt:
                    on_retry()
                return self._run(load, window_s * 2**attempt, agreement=_AGREEMENT)
        shortest_s = window_s * 2**_ATTEMPTS
        windows_s = sorted({max(shortest_s, length_s) for length_s in _LONG_WINDOWS_S})
        return self._run_without_agreement(load, windows_s, stable=False)

    def measure_for(self, load: Load, seconds: float) -> Measurement:
        """Warm up the model, then measure for about this time, whether or not windows agree.

        The warm-up brings the model back into the processor's caches after the turns of others.
        """
        self._warm_up(load)
        return self._run_without_agreement(load, [seconds / _WINDOWS, seconds, *_LONG_WINDOWS_S])

    def _warm_up(self, load: Load) -> float:
        """Send four requests, and return the shortest latency, in seconds."""
        times = []
        with Classifier(self._urls["grpc"], load.model) as classifier:
            batch = classifier.prepare(sample_photographs()[0])[None].repeat(load.batch, 0)
            for _ in range(4):
                started = time.perf_counter()
                classifier.infer(batch)
                times.append(time.perf_counter() - started)
        return min(times)

    def _run_without_agreement(
        self, load: Load, windows_s: Sequence[float], *, stable: bool = True
    ) -> Measurement:
        """Measure three windows, and longer ones if one of them passed without an answer."""
        for window_s in windows_s:
            with suppress(Unstable):
                return self._run(load, window_s, agreement=_NO_AGREEMENT, stable=stable)
        raise AnalyzerFailed(f"{load}: in {max(windows_s):g} s there was no answer")

    def _run(
        self, load: Load, window_s: float, agreement: int, *, stable: bool = True
    ) -> Measurement:
        table = self._folder / "measured.csv"
        table.unlink(missing_ok=True)
        inputs, batched = self._input_of(load.model, load.batch)
        counted = load.batch if batched else 1  # without a batch axis, Triton counts a batch as 1
        options = _options(load, self._urls[load.protocol], counted, window_s, agreement)
        command = [str(self._program), *options, "--input-data", str(inputs), "-f", str(table)]
        before = _Clocks.read()
        limit_s = _LIMIT_S + _LIMIT_WINDOWS * window_s
        for _ in range(_STARTS):
            with suppress(subprocess.TimeoutExpired):
                done = _run_group(command, os.environ | self._environment, limit_s)
                break
        else:
            raise AnalyzerHung(
                f"{load}: perf_analyzer was started {_STARTS} times, did not end within "
                f"{limit_s:.0f} s, and was killed. Restart the server, and run again to go on"
            )
        shares = before.shares(_Clocks.read(), os.cpu_count() or 1)
        rows = _rows(table) if table.exists() else []
        if not rows:
            raise _failure(done, load)
        return _measurement(rows[0], load.batch // counted, stable, shares)

    def _input_of(self, model: str, batch: int) -> tuple[Path, bool]:
        """The file with the photographs, as perf_analyzer reads it.

        Returns:
            The file, and whether the model has a batch axis in the config that is served now.
        """
        with Classifier(self._urls["grpc"], model) as classifier:
            batched, name = bool(classifier.model.max_batch), classifier.model.input
            if known := self._inputs.get((model, batch, batched)):
                return known, batched
            tensors = [classifier.prepare(path) for path in sample_photographs()]
        entries = []
        for tensor in tensors:
            repeated = 1 if batched else batch
            content: dict[str, object] = {
                "b64": base64.b64encode(tensor.tobytes() * repeated).decode()
            }
            if not batched:
                content = {"content": content, "shape": [batch, *tensor.shape]}
            entries.append({name: content})
        path = self._folder / f"{len(self._inputs)}.json"
        path.write_text(json.dumps({"data": entries}), encoding="ascii")
        self._inputs[model, batch, batched] = path
        return path, batched


def _run_group(
    command: list[str], environment: dict[str, str], limit_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a program. If this process is interrupted (Ctrl-C), the program is killed.

    Raises:
        TimeoutExpired: The program did not end within `limit_s` seconds, and was killed.
    """
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=limit_s)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _failure(done: subprocess.CompletedProcess[str], load: Load) -> AnalyzerFailed:
    """The error for a run of perf_analyzer that wrote no table."""
    if any(sign in done.stderr + done.stdout for sign in _UNSTABLE):
        return Unstable(f"{load}: no three windows in a row agreed")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return AnalyzerFailed(f"{load}: perf_analyzer was ended by {name}. Run again to go on")
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "fail" in line.lower()]
    reason = "it said nothing"
    if lines:
        reason = errors[0] if errors else lines[-1]
    return AnalyzerFailed(f"{load}: perf_analyzer ended with code {done.returncode}: {reason}")


@dataclass(frozen=True)
class _Clocks:
    """The clocks of this process, in seconds.

    Attributes:
        wall: A clock that only goes forward.
        own: The processor time of this process.
        children: The processor time of those child processes that have ended.
    """

    wall: float
    own: float
    children: float

    @classmethod
    def read(cls) -> _Clocks:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cls(time.perf_counter(), time.process_time(), usage.ru_utime + usage.ru_stime)

    def shares(self, later: _Clocks, cores: int) -> tuple[float, float]:
        """The shares of all cores that the children and this process used until `later`."""
        capacity = (later.wall - self.wall) * cores
        return (later.children - self.children) / capacity, (later.own - self.own) / capacity


def _options(load: Load, url: str, counted: int, window_s: float, agreement: int) -> list[str]:
    """The options of perf_analyzer for a load.

    Args:
        load: The load.
        url: The endpoint for the load's protocol.
        counted: The batch of a request as Triton counts it: 1 for a model without a batch axis.
        window_s: The length of a window, in seconds.
        agreement: The percentage by which three windows may differ.
    """
    level = ["--concurrency-range", load.concurrency]
    if load.rate:
        level = ["--request-rate-range", f"{load.rate:g}", "--request-distribution", "poisson"]
    memory: list[object] = []
    if load.shared_memory:
        memory = ["--shared-memory", "system", "--output-shared-memory-size", _OUTPUT_BYTES]
    target = ["-m", load.model, "-u", url, "-i", load.protocol, "-b", counted, "--async"]
    milliseconds = round(window_s * 1000)
    windows = ["-s", agreement, "-r", _MAX_WINDOWS, "--measurement-interval", milliseconds]
    return [str(part) for part in (*target, *level, *memory, *windows)]


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _measurement(
    row: Mapping[str, str], images: int, stable: bool, shares: tuple[float, float]
) -> Measurement:
    """Convert a row of perf_analyzer's table.

    Args:
        row: The values by column. Times are in microseconds.
        images: The number of images in each inference that perf_analyzer counts. Without a batch
            axis, it counts requests.
        stable: Whether the windows agreed.
        shares: The shares of all cores that perf_analyzer and this program used.
    """
    return Measurement(
        throughput=float(row["Inferences/Second"]) * images,
        latency={name: float(row[f"{name} latency"]) / 1000 for name in PERCENTILES},
        phases={name: float(row[column]) / 1000 for name, column in _PHASES.items()},
        stable=stable,
        generator_cpu=shares[0],
        harness_cpu=shares[1],
    )
