"""The generator's figures, held against independent clocks and counts.

The models' speed is known by construction.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.contract import OUTPUT_KIND_PARAMETER, OutputKind, Preprocessing
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.perf import results
from seresnext101_triton.perf.cli import main
from seresnext101_triton.perf.errors import AnalyzerFailed, AnalyzerHung, Unstable, UsageError
from seresnext101_triton.perf.load import (
    LoadGenerator,
    _Clocks,
    _failure,
    _measurement,
    _options,
    _run_group,
)
from seresnext101_triton.perf.records import Load, Measurement, Point
from seresnext101_triton.server.launcher import Server
from tests.conftest import FREE_PORTS, write_model

WAIT_S = 0.05  # of each request to the model `steady`
SLOW_WAIT_S = 1.5
# A model that waits, and notes when it began, when it ended, and how many images it had.
SLEEPER = """
import json
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.seconds = float(parameters["seconds"]["string_value"])
        self.log = open(parameters["log"]["string_value"], "a")

    def execute(self, requests):
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "INPUT__0").as_numpy()) \
for request in requests]

    def answer(self, images):
        started = time.monotonic()
        time.sleep(self.seconds)
        self.log.write(f"{started} {time.monotonic()} {len(images)}\\n")
        self.log.flush()
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT__0", \
np.zeros((len(images), 10), np.float32))])
"""


class Sleepers:
    """A server with models that wait, and what they have noted."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.http_url = f"127.0.0.1:{server.ports.http}"
        self._folder = folder

    def noted(self, model: str) -> list[tuple[float, float, int]]:
        """The begin, the end and the number of images of every request that a model has answered.

        The times are seconds of the monotonic clock.
        """
        rows = (line.split() for line in (self._folder / f"{model}.log").read_text().splitlines())
        return [(float(started), float(ended), int(images)) for started, ended, images in rows]


@pytest.fixture(scope="module")
def sleepers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sleepers")
    contract = Preprocessing(resize=8, crop=8).to_parameters() | {
        OUTPUT_KIND_PARAMETER: OutputKind.PROBABILITIES.value
    }
    for name, batch, seconds in (
        ("steady", 4, WAIT_S),
        ("unbatched", 0, WAIT_S),
        ("slow", 4, SLOW_WAIT_S),
    ):
        parameters = contract | {"seconds": str(seconds), "log": str(folder / f"{name}.log")}
        axis = "" if batch else "-1, "
        config = f"""
            backend: "python"  max_batch_size: {batch}
            input {{ name: "INPUT__0" data_type: TYPE_FP32 dims: [{axis}3, 8, 8] }}
            output {{ name: "OUTPUT__0" data_type: TYPE_FP32 dims: [{axis}10] }}
            instance_group {{ kind: KIND_CPU count: 1 }}
        """ + "".join(
            f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'
            for key, value in parameters.items()
        )
        write_model(folder / "models", name, config, {"model.py": SLEEPER.encode()})
    with Server(folder / "models", ports=FREE_PORTS, allow=["shared-memory"]) as server:
        yield Sleepers(server, folder)


@pytest.mark.parametrize(
    "load",
    [
        Load("steady", batch=4, concurrency=2),
        Load("unbatched", batch=4, concurrency=1, protocol="http"),
        Load("steady", batch=1, concurrency=1, shared_memory=True),
    ],
    ids=str,
)
def test_a_measurement_is_what_the_model_and_a_clock_have_seen(sleepers, load):
    with LoadGenerator(sleepers.server.url, sleepers.http_url) as generator:
        children_before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        own_before = time.process_time()
        measured = generator.measure_for(load, 1.5)
        elapsed, own = time.monotonic() - started, time.process_time() - own_before
        children_after = resource.getrusage(resource.RUSAGE_CHILDREN)
    noted = [row for row in sleepers.noted(load.model) if row[0] >= started]
    # One instance answers one request after the other, so a request waits for those before it too.
    assert (
        WAIT_S * 1000
        <= measured.latency["p50"]
        <= measured.latency["p90"]
        <= measured.latency["p95"]
        <= measured.latency["p99"]
    )
    assert measured.latency["p99"] < elapsed * 1000
    assert (
        WAIT_S * 1000
        <= measured.phases["compute"]
        <= sum(measured.phases.values())
        < elapsed * 1000
    )
    span = noted[-1][1] - noted[0][0]
    assert measured.throughput == pytest.approx(
        sum(images for _, _, images in noted) / span, rel=0.6
    )
    assert measured.throughput <= load.batch / WAIT_S * 1.1
    assert measured.stable
    # Shares of all cores, over a time that is shorter than the whole turn and not by much.
    used = (
        children_after.ru_utime
        + children_after.ru_stime
        - children_before.ru_utime
        - children_before.ru_stime
    )
    cores = os.cpu_count() or 1
    assert measured.generator_cpu > 0 and used / (elapsed * cores) <= measured.generator_cpu
    assert 0 <= measured.harness_cpu <= own / (1.5 * cores)


def test_a_model_that_never_gets_stable(sleepers, tmp_path, capsys, monkeypatch):
    """One request takes longer than two of the first windows.

    So one of three consecutive windows is empty, on every machine.
    """
    monkeypatch.setattr(LoadGenerator, "window_s", lambda *_: 0.2)
    path = tmp_path / "results.jsonl"
    command = [
        "sweep",
        "--url",
        sleepers.server.url,
        "--model",
        "slow",
        "--concurrency",
        "1",
        "--results",
        str(path),
    ]
    started = time.monotonic()
    assert main(command) == 0
    elapsed = time.monotonic() - started
    assert capsys.readouterr().err.count("unstable, tried again with longer windows") == 1
    (record,) = results.read(path)
    assert isinstance(record, Point)
    assert record.stable is False
    assert SLOW_WAIT_S * 1000 <= record.latency["p50"] < elapsed * 1000
    # A window of 2 s may hold the ends of two requests.
    assert 0 < record.throughput <= 1.1 / SLOW_WAIT_S + 0.5


def test_the_warm_up_gives_the_shortest_wait(sleepers):
    generator = LoadGenerator(sleepers.server.url)
    asked, started = len(sleepers.noted("steady")), time.monotonic()
    wait_s = generator._warm_up(Load("steady", batch=3))
    elapsed = time.monotonic() - started
    noted = sleepers.noted("steady")[asked:]
    assert [images for _, _, images in noted] == [3] * 4
    assert WAIT_S <= wait_s <= elapsed / 4


def test_a_window_holds_25_requests_within_its_bounds(monkeypatch):
    generator = LoadGenerator("127.0.0.1:1")
    for wait_s, window_s in ((0.001, 1.0), (0.1, 2.5), (1.0, 10.0)):
        monkeypatch.setattr(generator, "_warm_up", lambda load, wait_s=wait_s: wait_s)
        assert generator.window_s(Load("m")) == pytest.approx(window_s)
    assert generator.window_s(Load("m"), 30.0, 60.0) == pytest.approx(30.0)


def test_the_input_is_photographs_as_the_model_wants_them(sleepers):
    with (
        LoadGenerator(sleepers.server.url) as generator,
        Classifier(sleepers.server.url, "steady") as classifier,
    ):
        prepared = [classifier.prepare(path) for path in sample_photographs()]
        (steady, _), (unbatched, _) = (
            generator._input_of(model, 2) for model in ("steady", "unbatched")
        )
        entries = [entry["INPUT__0"] for entry in json.loads(steady.read_text())["data"]]
        whole = [entry["INPUT__0"] for entry in json.loads(unbatched.read_text())["data"]]
        assert generator._input_of("steady", 2) == (steady, True)
        assert generator._input_of("unbatched", 2) == (unbatched, False)
        assert steady != unbatched
    for image, entry, batch in zip(prepared, entries, whole, strict=True):
        np.testing.assert_array_equal(
            np.frombuffer(base64.b64decode(entry["b64"]), np.float32).reshape(image.shape), image
        )
        assert batch["shape"] == [2, 3, 8, 8]
        content = np.frombuffer(base64.b64decode(batch["content"]["b64"]), np.float32).reshape(
            batch["shape"]
        )
        np.testing.assert_array_equal(content, np.stack([image, image]))
    assert not generator._folder.exists()


def test_a_load_that_the_server_refuses(sleepers):
    """perf_analyzer's own words are given, with the load."""
    with LoadGenerator(sleepers.server.url, sleepers.http_url) as generator:
        with pytest.raises(
            AnalyzerFailed,
            match=r"slow, batch 9, .*: perf_analyzer ended with code 99: Failed to retrieve",
        ) as failed:
            generator._run(Load("slow", batch=9), 0.2, 10)
    assert type(failed.value) is AnalyzerFailed


# A row as perf_analyzer 2.50 wrote it for a load of two requests under way.
ROW = {
    "Concurrency": "2",
    "Inferences/Second": "79.6316",
    "Client Send": "93",
    "Network+Server Send/Recv": "1051",
    "Server Queue": "49870",
    "Server Compute Input": "73",
    "Server Compute Infer": "50211",
    "Server Compute Output": "18",
    "Client Recv": "3",
    "p50 latency": "100470",
    "p90 latency": "100939",
    "p95 latency": "101230",
    "p99 latency": "102011",
}


def test_microseconds_become_milliseconds_and_inferences_images():
    measured = _measurement(ROW, 4, stable=False, shares=(0.25, 0.01))
    assert measured == Measurement(
        throughput=4 * 79.6316,
        latency={"p50": 100.47, "p90": 100.939, "p95": 101.23, "p99": 102.011},
        phases={
            "client send": 0.093,
            "network": 1.051,
            "queue": 49.87,
            "input": 0.073,
            "compute": 50.211,
            "output": 0.018,
            "client receive": 0.003,
        },
        stable=False,
        generator_cpu=0.25,
        harness_cpu=0.01,
    )


def test_shares_are_of_all_cores_over_the_time_between():
    before, after = (
        _Clocks(wall=10.0, own=1.0, children=2.0),
        _Clocks(wall=14.0, own=1.5, children=6.0),
    )
    assert before.shares(after, cores=2) == (0.5, 0.0625)


def test_the_clocks_are_those_of_the_system():
    """A child that burns a known processor time, measured by its own clock."""
    before = _Clocks.read()
    burn = "import time\nwhile time.process_time() < 0.5: pass\nprint(time.process_time())"
    burnt = float(
        subprocess.run(
            [sys.executable, "-c", burn], capture_output=True, text=True, check=True
        ).stdout
    )
    while time.process_time() < before.own + 0.1:
        pass
    after = _Clocks.read()
    assert burnt <= after.children - before.children + 0.02  # the kernel counts in steps
    assert after.own - before.own >= 0.1
    assert after.wall - before.wall >= 0.1
    assert before.wall <= time.perf_counter()


@pytest.mark.parametrize(
    ("load", "given", "absent"),
    [
        (
            Load("m", batch=8, concurrency=4),
            {"-m": "m", "-u": "host:1", "-i": "grpc", "-b": "8", "--concurrency-range": "4"},
            ["--request-rate-range", "--shared-memory"],
        ),
        (
            Load("m", concurrency=0, rate=12.5, protocol="http"),
            {"-i": "http", "--request-rate-range": "12.5"},
            ["--concurrency-range", "--shared-memory"],
        ),
        (
            Load("m", shared_memory=True),
            {"--shared-memory": "system", "--output-shared-memory-size": "65536"},
            [],
        ),
    ],
    ids=str,
)
def test_what_perf_analyzer_is_told(load, given, absent):
    options = _options(load, "host:1", load.batch, 0.75, 10)
    assert all(isinstance(option, str) for option in options)
    told = {
        option: options[index + 1]
        for index, option in enumerate(options[:-1])
        if option.startswith("-")
    }
    assert given.items() <= told.items() and not set(absent) & told.keys()
    assert (told["-s"], told["-r"], told["--measurement-interval"]) == ("10", "8", "750")
    assert "--async" in options


class Recorded(LoadGenerator):
    """A generator whose runs end as a list says, and are noted."""

    def __init__(self, outcomes: list[bool]) -> None:
        super().__init__("127.0.0.1:1")
        self.outcomes = outcomes
        self.runs: list[tuple[float, int, bool]] = []

    def _run(self, load, window_s, agreement, *, stable=True):
        self.runs.append((window_s, agreement, stable))
        if self.outcomes.pop(0):
            return _measurement(ROW, load.batch, stable, (0.0, 0.0))
        raise Unstable("no three windows in a row agreed")

    def _warm_up(self, load):
        self.runs.append((0.0, 0, True))
        return 0.0


def test_a_load_is_tried_again_with_windows_twice_as_long_and_then_taken_as_it_is():
    first = Recorded([True])
    assert first.measure(Load("m"), 1.0).stable and first.runs == [(1.0, 10, True)]

    retries: list[int] = []
    second = Recorded([False, True])
    assert second.measure(Load("m"), 1.0, lambda: retries.append(1)).stable
    assert second.runs == [(1.0, 10, True), (2.0, 10, True)] and len(retries) == 1

    third = Recorded([False, False, False, True])
    assert not third.measure(Load("m"), 1.0).stable
    assert third.runs == [(1.0, 10, True), (2.0, 10, True), (4.0, 999, False), (8.0, 999, False)]

    never = Recorded([False] * 5)
    with pytest.raises(
        AnalyzerFailed, match=r"m, batch 1, concurrency 1, grpc: in 40 s there was no answer"
    ):
        never.measure(Load("m"), 10.0)
    assert never.runs[2:] == [(40.0, 999, False)]  # as long as it gets is tried once


def test_windows_of_a_low_rate_are_long_and_need_not_agree():
    slow = Recorded([False, True])
    assert not slow.measure(Load("m", concurrency=0, rate=0.5), 1.0).stable
    assert slow.runs == [(10.0, 999, False), (40.0, 999, False)]
    enough = Recorded([True])
    assert enough.measure(Load("m", concurrency=0, rate=5.0), 1.0).stable


def test_a_turn_warms_up_and_takes_whatever_three_windows_give():
    turn = Recorded([False, False, True])
    assert turn.measure_for(Load("m", batch=2), 6.0) == _measurement(ROW, 2, True, (0.0, 0.0))
    assert turn.runs == [(0.0, 0, True), (2.0, 999, True), (6.0, 999, True), (2.0, 999, True)]


def ended(code: int, out: str = "", err: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, out, err)


UNSTABLE = "no three windows in a row agreed"


@pytest.mark.parametrize(
    ("done", "kind", "words"),
    [
        (
            ended(1, err="x\nFailed to obtain stable measurement within 8 windows\n"),
            Unstable,
            UNSTABLE,
        ),
        (
            ended(
                1, out="No valid requests recorded within time interval. Please use a larger one."
            ),
            Unstable,
            UNSTABLE,
        ),
        (ended(-9), AnalyzerFailed, "was ended by SIGKILL. Run again to go on"),
        (
            ended(99, err="note\n  error: no model metadata \nlast"),
            AnalyzerFailed,
            "with code 99: error: no model metadata",
        ),
        (ended(2, err="note\nFAILED here\nlast"), AnalyzerFailed, "with code 2: FAILED here"),
        (ended(2, err="\nfirst\n last \n\n"), AnalyzerFailed, "with code 2: last"),
        (ended(0), AnalyzerFailed, "with code 0: it said nothing"),
    ],
)
def test_what_is_said_of_a_run_without_a_measurement(done, kind, words):
    error = _failure(done, Load("m"))
    assert type(error) is kind
    assert str(error).startswith("m, batch 1, concurrency 1, grpc: ") and str(error).endswith(words)


def test_a_program_is_ended_with_us_and_its_words_are_kept(tmp_path):
    script = (
        "import os, sys; print(os.environ['X']); print('to err', file=sys.stderr); "
        "print(os.getsid(0) == os.getpid()); sys.exit(3)"
    )
    done = _run_group([sys.executable, "-c", script], os.environ | {"X": "to out"}, 600)
    assert (done.returncode, done.stdout, done.stderr) == (3, "to out\nTrue\n", "to err\n")
    # Bytes that are not UTF-8 do not end us.
    done = _run_group(
        [sys.executable, "-c", "import os; os.write(2, bytes([255]))"], dict(os.environ), 600
    )
    assert done.stderr == "\ufffd"


def test_ctrl_c_ends_the_program(tmp_path, monkeypatch):
    started: list[subprocess.Popen[str]] = []

    class Interrupted(subprocess.Popen):
        def communicate(self, *arguments, **options):
            started.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        _run_group(["sleep", "1000"], dict(os.environ), 600)
    assert started[0].returncode == -9


def test_a_program_that_hangs_is_killed(monkeypatch):
    started: list[subprocess.Popen[str]] = []

    class Noted(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    with pytest.raises(subprocess.TimeoutExpired):
        _run_group(["sleep", "1000"], dict(os.environ), 0.1)
    assert started[0].returncode == -9


def test_a_run_that_hangs_is_started_once_more_and_then_said_to_hang(monkeypatch, sleepers):
    limits: list[float] = []

    def hang(command, environment, limit_s):
        limits.append(limit_s)
        raise subprocess.TimeoutExpired(command, limit_s)

    monkeypatch.setattr("seresnext101_triton.perf.load._run_group", hang)
    with LoadGenerator(sleepers.server.url) as generator:
        with pytest.raises(
            AnalyzerHung,
            match=r"^steady, batch 1, concurrency 1, grpc: .* did not end within 200 s",
        ):
            generator.measure(Load("steady"), 1.0)
    assert limits == [200, 200]


def test_a_load_says_what_it_is():
    assert str(Load("m", 8, 4)) == "m, batch 8, concurrency 4, grpc"
    assert (
        str(Load("m", rate=2.5, protocol="http", shared_memory=True))
        == "m, batch 1, 2.5 requests/s, http, shared memory"
    )
    assert Load("m", 2, 4).series == "m, batch 2"
    assert Load("m", protocol="http", shared_memory=True).series == "m, HTTP, shared memory"
    assert Load("m", 1, 4).series == "m"
    assert Load("m", concurrency=0, rate=4.0).series == "m, by rate"
    assert (Load("m", 1, 4).level, Load("m", rate=2.5).level) == (4, 2.5)
    assert Load("m") == Load(
        "m", batch=1, concurrency=1, rate=0.0, protocol="grpc", shared_memory=False
    )


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"batch": 5000}, "a batch must have at most 4096 images, not 5000"),
        ({"concurrency": 5000}, "`concurrency` must be at most 4096"),
        ({"concurrency": 0, "rate": 1e9}, "`rates` must be at most 100000 requests per second"),
    ],
)
def test_a_load_that_would_fill_the_memory_is_wrong_usage(values, reason):
    with pytest.raises(UsageError, match=reason):
        Load("m", **values)
