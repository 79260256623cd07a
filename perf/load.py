"""One load on one served model, and what perf_analyzer measures of it."""

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
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from client import Classifier
from client.images import sample_photographs
from perf import analyzer
from perf.errors import AnalyzerFailed, Unstable

_UNSTABLE = ("Failed to obtain stable measurement", "No valid requests recorded within time interval")
_WINDOWS = 3  # that perf_analyzer wants to agree
_TRIALS = 8  # windows in a row in which it looks for those
_ANY = 999  # percent: windows that always agree, if each has an answer
_TRIES = 2  # for windows that agree
_LAST_WINDOWS_S = (2.0, 8.0, 20.0)  # for whatever there is, where nothing agreed
_OUTPUT_BYTES = 1 << 16  # of shared memory for an answer
_PHASES = {
    "client send": "Client Send",
    "network": "Network+Server Send/Recv",
    "queue": "Server Queue",
    "input": "Server Compute Input",
    "compute": "Server Compute Infer",
    "output": "Server Compute Output",
    "client receive": "Client Recv",
}
_PERCENTILES = ("p50", "p90", "p95", "p99")


@dataclass(frozen=True)
class Load:
    """What is asked of a server.

    Attributes:
        model: The served model.
        batch: Images in one request.
        concurrency: Requests that are always under way; 0 where `rate` counts.
        rate: Requests a second, sent whether answered or not; 0 where `concurrency` counts.
        protocol: `grpc` or `http`.
        shared_memory: Whether tensors go through system shared memory.
    """

    model: str
    batch: int = 1
    concurrency: int = 1
    rate: float = 0.0
    protocol: str = "grpc"
    shared_memory: bool = False

    def __str__(self) -> str:
        level = f"{self.rate:g} requests/s" if self.rate else f"concurrency {self.concurrency}"
        return f"{self.model}, batch {self.batch}, {level}, {self.protocol}{', shared memory' * self.shared_memory}"


@dataclass(frozen=True)
class Measurement:
    """What was measured. Times are in milliseconds.

    Attributes:
        throughput: Images a second.
        latency: Percentiles of a request's time, as the client sees it: p50, p90, p95, p99.
        phases: Where that time goes, on average.
        stable: Whether three windows in a row agreed; where not, these are the averages of three that did not.
        generator_cpu: Share of all cores that perf_analyzer took.
        harness_cpu: Share of all cores that this program took.
    """

    throughput: float
    latency: dict[str, float]
    phases: dict[str, float]
    stable: bool
    generator_cpu: float
    harness_cpu: float


class Generator:
    """perf_analyzer with real photographs, prepared as the model wants them. Use it as a context manager.

    Raises:
        AnalyzerMissing: There is no perf_analyzer that runs here.
    """

    def __init__(self, url: str, http_url: str = "") -> None:
        self._urls = {"grpc": url, "http": http_url}
        self._program, self._environment = analyzer.find()
        self._inputs: dict[tuple[str, int], Path] = {}
        self._unbatched: set[str] = set()  # models that Triton knows no batch axis of: a batch is one inference for it

    def __enter__(self) -> Generator:
        self._scratch = tempfile.TemporaryDirectory()
        self._folder = Path(self._scratch.name)
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()

    def window_s(self, load: Load, least: float = 1.0, most: float = 10.0) -> float:
        """A window that holds some 25 requests of one client, in seconds; asking warms the model up too.

        Raises:
            ClientError: The model does not answer.
        """
        return min(max(25 * self._warm_up(load), least), most)

    def measure(self, load: Load, window_s: float, retried: Callable[[], object] = lambda: None) -> Measurement:
        """Measure until three windows agree within 10 %; an unstable load is tried again with longer ones, and then recorded as such.

        Raises:
            AnalyzerFailed: perf_analyzer ended without a measurement: the server went, or refuses the load.
        """
        for attempt in range(_TRIES):
            with suppress(Unstable):
                if attempt:
                    retried()
                return self._run(load, window_s * 2**attempt, agreement=10)
        return self._whatever(load, [max(window_s * 2**_TRIES, least) for least in _LAST_WINDOWS_S], stable=False)

    def turn(self, load: Load, seconds: float) -> Measurement:
        """Measure for about so long, whatever it gives; what others have driven out of the caches since the last turn is fetched before."""
        self._warm_up(load)
        return self._whatever(load, [seconds / _WINDOWS, seconds, *_LAST_WINDOWS_S])

    def _warm_up(self, load: Load) -> float:
        """Ask a few times, and return the shortest wait, in seconds."""
        times = []
        with Classifier(self._urls["grpc"], load.model) as classifier:
            batch = classifier.prepare(sample_photographs()[0])[None].repeat(load.batch, 0)
            for _ in range(4):
                started = time.perf_counter()
                classifier.infer(batch)
                times.append(time.perf_counter() - started)
        return min(times)

    def _whatever(self, load: Load, windows_s: Sequence[float], *, stable: bool = True) -> Measurement:
        """Three windows that need not agree; longer ones where one of them passed without an answer."""
        for window_s in windows_s:
            with suppress(Unstable):
                return self._run(load, window_s, agreement=_ANY, stable=stable)
        raise AnalyzerFailed(f"{load}: in {max(windows_s):g} s there was no answer")

    def _run(self, load: Load, window_s: float, agreement: int, *, stable: bool = True) -> Measurement:
        table = self._folder / "measured.csv"
        table.unlink(missing_ok=True)
        inputs = self._input_of(load.model, load.batch)
        batch = 1 if load.model in self._unbatched else load.batch
        level = ["--request-rate-range", f"{load.rate:g}"] if load.rate else ["--concurrency-range", str(load.concurrency)]
        memory = ["--shared-memory", "system", "--output-shared-memory-size", str(_OUTPUT_BYTES)] if load.shared_memory else []
        command = [self._program, "-m", load.model, "-u", self._urls[load.protocol], "-i", load.protocol, "-b", batch, "--async"]
        command += [*level, *memory, "--input-data", inputs, "-s", agreement, "-r", _TRIALS]
        command += ["--measurement-interval", round(window_s * 1000), "-f", table]
        children, own, started = _children_cpu(), time.process_time(), time.perf_counter()
        done = _run_group([str(part) for part in command], os.environ | self._environment)
        capacity = (time.perf_counter() - started) * (os.cpu_count() or 1)
        if not table.exists():
            raise _failure(done, load)
        with table.open(encoding="utf-8", newline="") as file:
            row = next(csv.DictReader(file), None)
        if row is None:
            raise _failure(done, load)
        return Measurement(
            throughput=float(row["Inferences/Second"]) * load.batch / batch,
            latency={name: float(row[f"{name} latency"]) / 1000 for name in _PERCENTILES},
            phases={name: float(row[column]) / 1000 for name, column in _PHASES.items()},
            stable=stable,
            generator_cpu=(_children_cpu() - children) / capacity,
            harness_cpu=(time.process_time() - own) / capacity,
        )

    def _input_of(self, model: str, batch: int) -> Path:
        if (model, batch) not in self._inputs:
            with Classifier(self._urls["grpc"], model) as classifier:
                tensors = [classifier.prepare(path) for path in sample_photographs()]
                contents: list[dict[str, object]] = [{"b64": base64.b64encode(tensor.tobytes()).decode()} for tensor in tensors]
                if not classifier.model.max_batch:
                    self._unbatched.add(model)
                    shape = [batch, *tensors[0].shape]
                    contents = [
                        {"content": {"b64": base64.b64encode(tensor.tobytes() * batch).decode()}, "shape": shape} for tensor in tensors
                    ]
                entries = [{classifier.model.input: content} for content in contents]
            path = self._folder / f"{len(self._inputs)}.json"
            path.write_text(json.dumps({"data": entries}), encoding="ascii")
            self._inputs[model, batch] = path
        return self._inputs[model, batch]


def _run_group(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program that must not outlive us: Ctrl-C here ends it there."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    )
    try:
        out, err = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _failure(done: subprocess.CompletedProcess[str], load: Load) -> AnalyzerFailed:
    if any(sign in done.stderr + done.stdout for sign in _UNSTABLE):
        return Unstable(f"{load}: no three windows in a row agreed")
    if done.returncode < 0:
        return AnalyzerFailed(f"{load}: perf_analyzer was ended by {signal.Signals(-done.returncode).name}. Run again to go on")
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    reason = next((line for line in lines if "error" in line.lower() or "fail" in line.lower()), lines[-1] if lines else "it said nothing")
    return AnalyzerFailed(f"{load}: perf_analyzer ended with code {done.returncode}: {reason}")


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
