"""A real Envoy before two real tritonservers, with the configuration of `server.fleet`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.server.fleet.gateway import Endpoint, Gateway
from seresnext101_triton.server.launcher import Server
from tests.conftest import FREE_PORTS
from tests.server.fleet.envoy import healthy, running
from tests.server.fleet.test_gateway import configuration
from tests.waiting import until

MODEL = "tiny_onnx"
PHOTOGRAPH = sample_photographs()[0]


@contextmanager
def fleet(repository: Path, folder: Path) -> Iterator[tuple[list[Server], Gateway]]:
    """Two servers of one model, and an Envoy before them."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(Server(repository, ports=FREE_PORTS, only=[MODEL])) for _ in "12"
        ]
        ends = [Endpoint("127.0.0.1", each.ports.grpc, each.ports.http) for each in servers]
        path, gateway = configuration(folder, *ends)
        stack.enter_context(running(path, gateway.admin))
        for name in ("grpc", "http"):
            assert until(lambda name=name: len(healthy(gateway.admin, name)) == 2)  # type: ignore[misc]
        yield servers, gateway


@pytest.fixture(scope="module")
def two(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[Server], Gateway]]:
    with fleet(repository, tmp_path_factory.mktemp("fleet")) as started:
        yield started


def answered(server: Server) -> int:
    """The requests that a server has answered."""
    with triton.InferenceServerClient(f"127.0.0.1:{server.ports.grpc}") as client:
        return int(
            client.get_inference_statistics(MODEL).model_stats[0].inference_stats.success.count
        )


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_both_servers_answer_and_alike(two, protocol):
    servers, gateway = two
    url = f"127.0.0.1:{gateway.grpc}" if protocol == "grpc" else f"http://127.0.0.1:{gateway.http}"
    with Classifier(servers[0].url, model=MODEL) as direct:
        expected = direct.classify(PHOTOGRAPH)
    before = [answered(each) for each in servers]
    with Classifier(url, model=MODEL) as classifier:
        for _ in range(32):
            assert classifier.classify(PHOTOGRAPH) == expected
    assert all(answered(each) > count for each, count in zip(servers, before, strict=True))


def test_refused_requests_take_no_server_away(two):
    """A client without the key is refused, and other clients keep both servers."""
    servers, gateway = two
    both = {each.ports.grpc for each in servers}
    with triton.InferenceServerClient(f"127.0.0.1:{gateway.grpc}") as client:
        for _ in range(10):
            with pytest.raises(InferenceServerException, match="restricted"):
                client.get_model_repository_index()
            assert healthy(gateway.admin, "grpc") == both
        for _ in range(10):
            with pytest.raises(InferenceServerException):
                client.get_model_metadata("absent")
            assert healthy(gateway.admin, "grpc") == both


def test_a_killed_server_loses_no_request(repository, tmp_path):
    """16 callers go on while one of two servers is killed. Every answer comes, and is right."""
    image = np.random.default_rng(0).random((4, 3, 64, 64), np.float32)
    tensor = triton.InferInput("INPUT__0", list(image.shape), "FP32")
    tensor.set_data_from_numpy(image)
    with fleet(repository, tmp_path) as (servers, gateway):
        with triton.InferenceServerClient(servers[0].url) as client:
            expected = client.infer(MODEL, [tensor]).as_numpy("OUTPUT__0")
        done = threading.Semaphore(0)
        ended = threading.Event()

        def call(_: int) -> list[str]:
            """The errors of one caller."""
            found = []
            with triton.InferenceServerClient(f"127.0.0.1:{gateway.grpc}") as client:
                while not ended.is_set():
                    try:
                        answer = client.infer(MODEL, [tensor]).as_numpy("OUTPUT__0")
                        if not np.allclose(answer, expected, rtol=1e-4, atol=1e-7):
                            found.append("a wrong answer")
                    except InferenceServerException as error:
                        found.append(str(error))
                    done.release()
            return found

        with ThreadPoolExecutor(16) as pool:
            callers = [pool.submit(call, caller) for caller in range(16)]
            try:
                for _ in range(100):
                    assert done.acquire(timeout=120)
                os.kill(servers[1].pid, signal.SIGKILL)
                for _ in range(200):
                    assert done.acquire(timeout=120)
            finally:
                ended.set()
            errors = [error for caller in callers for error in caller.result()]
        assert errors == []
        assert until(lambda: healthy(gateway.admin, "grpc") == {servers[0].ports.grpc})


def test_a_fleet_that_is_gone_is_told_at_once(tmp_path):
    """All servers are absent: the client is not left waiting."""
    path, gateway = configuration(tmp_path, Endpoint("127.0.0.1", 1, 2))
    with running(path, gateway.admin):
        assert until(lambda: healthy(gateway.admin, "grpc") == set())
        with triton.InferenceServerClient(f"127.0.0.1:{gateway.grpc}") as client:
            with pytest.raises(InferenceServerException) as caught:
                client.get_model_metadata(MODEL, client_timeout=60)
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
