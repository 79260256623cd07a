"""`python -m server --replicas 2`: a real Envoy before two supervised servers.

The tests share one fleet, and the last one ends it.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from seresnext101_triton.client import Classifier, TransportOptions
from seresnext101_triton.client.cli import main as client
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.client.launches import running_launches
from seresnext101_triton.client.metrics import parse, read_page
from seresnext101_triton.export.cli import main as export
from seresnext101_triton.server.cli import main as server
from seresnext101_triton.server.control import Control, running
from seresnext101_triton.server.fleet.metrics import UP
from seresnext101_triton.server.fleet.rotation import aside, rolling
from tests.conftest import onnx_convolution, write_model
from tests.server.launching import Launcher, launcher
from tests.versions import (
    ARTIFACT,
    Caller,
    answer_of,
    mistaken,
    rewrite_manifest,
)
from tests.waiting import until

MODEL = "tiny_onnx"
PHOTOGRAPH = sample_photographs()[0]
SLOW = """
    platform: "onnxruntime_onnx"  max_batch_size: 4
    input { name: "INPUT__0" data_type: TYPE_FP32 dims: [3, 4, 4] }
    output { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [2, 2, 2] }
    dynamic_batching { max_queue_delay_microseconds: 2000000 }
"""


@pytest.fixture(scope="module")
def started(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """A fleet of two that serves the small network, and a model whose batcher waits."""
    folder = tmp_path_factory.mktemp("fleet") / "models"
    shutil.copytree(repository / MODEL, folder / MODEL)
    write_model(folder, "slow", SLOW, {"model.onnx": onnx_convolution((3, 4, 4))})
    with launcher(folder, "--replicas", "2", "--follow") as fleet:
        yield fleet


def replicas(started: Launcher) -> list[psutil.Process]:
    """The tritonservers of a fleet."""
    return [
        each for each in psutil.Process(started.process.pid).children() if "triton" in name(each)
    ]


def name(process: psutil.Process) -> str:
    return str(process.name())


def page(started: Launcher) -> str:
    launch = started.launch(gateway=True)
    with urlopen(f"http://{launch.http_host}:{launch.metrics}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def under_load(url: str, act: Callable[[], None], retries: int) -> None:
    """Do something while four callers send requests. Each has its right answer."""
    done, ended = threading.Semaphore(0), threading.Event()

    def call(_: int) -> None:
        options = TransportOptions(retries=retries, protocol="grpc")
        with Classifier(url, MODEL, transport_options=options) as classifier:
            batch = classifier.prepare(PHOTOGRAPH)[None]
            expected = classifier.infer(batch)
            while not ended.is_set():
                np.testing.assert_allclose(classifier.infer(batch), expected, rtol=1e-4, atol=1e-7)
                done.release()

    def answers(count: int) -> None:
        for _ in range(count):
            assert until(lambda: done.acquire(timeout=1) or any(each.done() for each in callers))

    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(call, number) for number in range(4)]
        try:
            answers(20)
            act()
            answers(20)
        finally:
            ended.set()
        for each in callers:
            each.result()


def test_both_servers_answer_at_one_address(started, capsys):
    launch = started.launch(gateway=True)
    before = [parse(text).models[MODEL, "1"].requests for text in pages(started)]
    grpc, http = (
        Classifier(url, MODEL) for url in (launch.url, f"http://{launch.host}:{launch.http}")
    )
    with grpc, http:
        expected = grpc.classify(PHOTOGRAPH)
        for _ in range(8):
            assert grpc.classify(PHOTOGRAPH) == http.classify(PHOTOGRAPH) == expected
    assert until(
        lambda: all(
            parse(text).models[MODEL, "1"].requests > count
            for text, count in zip(pages(started), before, strict=True)
        )
    )
    assert client(["health", "--url", launch.url]) == 0
    assert MODEL in capsys.readouterr().out
    assert client(["top", "--url", launch.url, "--count", "1", "--interval", "0.1"]) == 0
    assert MODEL in capsys.readouterr().out


def pages(started: Launcher) -> list[str]:
    """The part of the metrics page that is about each server."""
    lines = page(started).splitlines()
    return ["\n".join(each for each in lines if f'replica="{n}"' in each) for n in range(2)]


def test_each_server_has_its_own_launch_and_cores(started):
    launches = running(started.repository)
    assert len(launches) == 2
    assert {each.key for each in launches} == {started.launch(gateway=True).key}
    assert not {each.grpc for each in launches} & {started.launch(gateway=True).grpc}
    cores = [frozenset(each.cpu_affinity()) for each in replicas(started)]
    if len(os.sched_getaffinity(0)) > 1 and len(set(cores)) > 1:
        assert not cores[0] & cores[1]
    for each in launches:
        assert {state.state for state in Control(each).index()} == {"READY"}


def test_a_server_gets_no_requests_while_it_is_judged(started):
    """Those that it has are answered: the batcher holds them back for two seconds."""
    gateway, (first, _) = started.launch(gateway=True), running(started.repository)

    def counted(model: str) -> float:
        page = read_page(first.http_host, first.metrics, 60)
        return sum(each.requests for (name, _), each in page.models.items() if name == model)

    def ask_slowly(_: int) -> None:
        tensor = triton.InferInput("INPUT__0", [1, 3, 4, 4], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 3, 4, 4), np.float32))
        with triton.InferenceServerClient(gateway.url) as connection:
            answer = connection.infer("slow", [tensor]).as_numpy("OUTPUT__0")
            assert answer is not None and (answer == 27).all()

    with ThreadPoolExecutor(6) as pool, Classifier(gateway.url, MODEL) as classifier:
        slow = [pool.submit(ask_slowly, number) for number in range(6)]
        with aside(first):
            before = counted(MODEL)
            for _ in range(20):
                classifier.classify(PHOTOGRAPH)
            assert counted(MODEL) == before
        for each in slow:
            each.result()
        assert until(lambda: bool(classifier.classify(PHOTOGRAPH)) and counted(MODEL) > before)


def test_a_promotion_reaches_every_server(started):
    shutil.copytree(started.repository / MODEL / "1", started.repository / MODEL / "2")
    assert versions_command(started, "promote", "2") == 0
    assert served(started) == [{"2"}, {"2"}]


def test_a_canary_answers_its_share_and_a_bad_one_nothing(started, capsys):
    folder, launch = started.repository / MODEL, started.launch(gateway=True)
    shutil.copytree(folder / "2", folder / "3")
    wrong = shutil.copytree(folder / "2", folder / "4")
    (wrong / ARTIFACT).write_bytes(mistaken(wrong / ARTIFACT))
    rewrite_manifest(wrong)
    urls = launch.url, f"http://{launch.host}:{launch.http}"
    with asking(urls) as seen:
        words = ("--percent", "80", "--soak", "2", "--json")
        assert versions_command(started, "canary", "3", *words) == 0
        assert served(started) == [{"2"}, {"2"}]
    assert seen == [{"2", "3"}, {"2", "3"}]
    trial = json.loads(capsys.readouterr().out)
    before, tried = (each["requests_per_s"] * trial["seconds"] for each in trial["rows"])
    count = before + tried
    assert abs(tried - 0.8 * count) < 4 * math.sqrt(0.16 * count) + 2

    with asking(urls, follow=False) as seen:
        assert versions_command(started, "canary", "4") == 1
        assert re.search("version 4 of .* answers otherwise", capsys.readouterr().err)
        assert served(started) == [{"2"}, {"2"}]
        words = (MODEL, "--to", "3", "--repository", str(started.repository))
        command = [sys.executable, "-m", "export", "canary", *words]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as killed:
            assert killed.stderr and "10 % of the requests" in killed.stderr.readline()
            hint = re.search(f"compare {MODEL}@(.*) {MODEL}@(.*)", killed.stderr.readline())
            servers = {each.url for each in running_launches() if not each.replicas}
            assert hint and {*hint.groups()} <= servers and hint[1] != hint[2]
            assert {"2", "3"} in served(started)
            for url in urls:
                with Classifier(url, MODEL, version="3") as named:
                    for _ in range(8):
                        named.classify(PHOTOGRAPH)
            killed.kill()
        assert until(lambda: served(started) == [{"2"}, {"2"}])
    assert seen == [{"2"}, {"2"}]
    shutil.rmtree(folder / "3")


def test_a_bad_version_reaches_no_server(started, capsys):
    folder = started.repository / MODEL
    caller = Caller(started.launch(gateway=True).url, {2: answer_of(started.repository, 2)})
    with caller.calling():
        assert versions_command(started, "promote", "4") == 1
        assert served(started) == [{"2"}, {"2"}]
        assert re.search("version 4 of .* answers otherwise", capsys.readouterr().err)

        # Both servers follow what is published, one after the other.
        wrong = (folder / "4").rename(started.repository.parent / "wrong")
        assert export(["promote", MODEL, "--repository", str(started.repository)]) == 0
        wrong.rename(folder / "5")
        for number in range(2):
            started.expect(f"replica {number}: model {MODEL}: version 2 still served, because")
        assert served(started) == [{"2"}, {"2"}]
    assert caller.errors == [] and set(caller.seen) == {2}  # none was judged while it got requests
    assert (
        started.launch(gateway=True).restarts == "none"
    )  # that a version was loaded anew is no death


def test_a_server_that_dies_before_a_version_was_accepted_answers_with_the_one_of_before(started):
    """The repository names a wrong version, which nobody has judged, and a server is killed."""
    folder, url = started.repository / MODEL, started.launch(gateway=True).url
    caller = Caller(url, {2: answer_of(started.repository, 2)})
    with caller.calling():
        with rolling(running(started.repository)):  # no server follows meanwhile
            (folder / "5").rename(folder / "6")
            after = len(started.lines)
            replicas(started)[0].kill()
            started.expect("tritonserver: ready again", after)
            assert served(started) == [{"2"}, {"2"}]
            after = len(started.lines)
        for number in range(2):
            words = f"replica {number}: model {MODEL}: version 2 still served, because"
            started.expect(words, after)
    assert caller.errors == [] and set(caller.seen) == {2}


def versions_command(started: Launcher, command: str, version: str, *words: str) -> int:
    repository = str(started.repository)
    return export([command, MODEL, "--to", version, "--repository", repository, *words])


@contextmanager
def asking(urls: Sequence[str], *, follow: bool = True) -> Iterator[list[set[str]]]:
    """Ask at each address meanwhile. At the end, the versions that have answered there."""
    ended = threading.Event()
    found: list[set[str]] = []

    def call(url: str) -> set[str]:
        with Classifier(url, MODEL, follow=follow) as classifier:
            batch, versions = classifier.prepare(PHOTOGRAPH)[None], set()
            while not ended.wait(0.005):  # so that cores are left for what is tested
                classifier.infer(batch)
                versions.add(classifier.model.version)
            return versions

    with ThreadPoolExecutor(len(urls)) as pool:
        callers = [pool.submit(call, url) for url in urls]
        try:
            yield found
        finally:
            ended.set()
        found += [each.result() for each in callers]


def served(started: Launcher) -> list[set[str]]:
    """The versions that each server has ready."""
    return [
        {
            state.version
            for state in Control(each).index()
            if (state.name, state.state) == (MODEL, "READY")
        }
        for each in running(started.repository)
    ]


def test_a_killed_server_loses_no_request(started):
    after = len(started.lines)
    (first, _) = replicas(started)
    under_load(
        started.launch(gateway=True).url, lambda: os.kill(first.pid, signal.SIGKILL), retries=0
    )
    assert "replica " in started.expect("it is started again", after)
    started.expect("ready again", after)
    assert until(lambda: started.launch(gateway=True).server_restarts == 2)
    assert until(lambda: all(f'{UP}{{replica="{n}"}} 1' in page(started) for n in range(2)))


def test_a_killed_envoy_loses_nothing_of_clients_with_retries(started):
    after = len(started.lines)
    (envoy,) = (
        each for each in psutil.Process(started.process.pid).children() if name(each) == "envoy"
    )
    under_load(
        started.launch(gateway=True).url, lambda: os.kill(envoy.pid, signal.SIGKILL), retries=100
    )
    started.expect("Envoy ended with signal SIGKILL; it is started again", after)
    started.expect("Envoy: ready again", after)
    assert until(lambda: started.launch(gateway=True).gateway_restarts == 1)


def test_a_signal_ends_all_of_it_after_the_answers(started):
    """The batcher holds a request back for two seconds, and the signal arrives meanwhile."""
    launch, launches = started.launch(gateway=True), running(started.repository)
    processes = psutil.Process(started.process.pid).children(recursive=True)
    tensor = triton.InferInput("INPUT__0", [1, 3, 4, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 3, 4, 4), np.float32))
    with triton.InferenceServerClient(launch.url) as connection, ThreadPoolExecutor(1) as pool:
        assert connection.is_model_ready("slow")
        asked = pool.submit(connection.infer, "slow", [tensor])
        time.sleep(0.5)
        assert started.end() == 0
        assert (asked.result().as_numpy("OUTPUT__0") == 27).all()
        with pytest.raises(InferenceServerException):
            connection.infer("slow", [tensor])
    assert started.lines[-1] == "stopped"
    assert running(started.repository) == [] and not any(each.is_running() for each in processes)
    for each in (launch, *launches):
        assert not Path(each.workspace).exists() and not each.file.exists()
        assert not each.shared_memory or not list(Path("/dev/shm").glob(f"{each.shared_memory}*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ngc"], "--replicas and --ngc do not go together"),
        (["--tls-cert", "a.pem", "--tls-key", "b.pem"], "--replicas and TLS do not go together"),
        (["--address", "localhost"], "--address must be the address of an interface"),
    ],
)
def test_wrong_usage_is_one_line(capsys, words, message):
    assert server(["--replicas", "2", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
