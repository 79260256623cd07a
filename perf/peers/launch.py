"""Starts a peer server, and sends it photographs as its users would: an image in, its top-5 out."""

from __future__ import annotations

import base64
import http
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import tritonclient.grpc as triton

from seresnext101_triton.client.images import load_image, sample_photographs
from seresnext101_triton.perf.eager import top5
from seresnext101_triton.perf.errors import PerfError, ToolMissing, UsageError
from seresnext101_triton.perf.peers.network import preprocessing_of
from seresnext101_triton.server.installation import libpython_folder
from seresnext101_triton.server.ports import LOCALHOST, Ports

_START_S = 120.0
User = Callable[[bytes], list[int]]  # sends an image file, and returns the top-5


@dataclass(frozen=True)
class Loop:
    """What users saw who sent one photograph after the other.

    Attributes:
        throughput: Images per second.
        p99_ms: The 99th percentile of the latency, in milliseconds.
    """

    throughput: float
    p99_ms: float


def closed_loop(users: Sequence[User], seconds: float) -> Loop:
    """Let every user send one photograph after the other.

    Args:
        users: The users, who send at the same time.
        seconds: The duration.
    """
    files = [path.read_bytes() for path in sample_photographs()]
    started = time.perf_counter()

    def work(index: int) -> list[float]:
        latencies: list[float] = []
        while (begun := time.perf_counter()) - started < seconds:
            users[index](files[(index + len(latencies)) % len(files)])
            latencies.append(time.perf_counter() - begun)
        return latencies

    with ThreadPoolExecutor(len(users)) as pool:
        latencies = [each for found in pool.map(work, range(len(users))) for each in found]
    throughput = len(latencies) / (time.perf_counter() - started)
    return Loop(throughput, 1000 * float(np.percentile(latencies, 99)))


@contextmanager
def running_peer(name: str, users: int, network: str) -> Iterator[list[User]]:
    """Start a peer, and end it on leaving.

    Args:
        name: A key of `PEERS`.
        users: The number of users.
        network: What it serves, from `network.argument_of`.

    Yields:
        The users, each with its own connection.

    Raises:
        UsageError: There is no such peer.
        ToolMissing: Its package is missing.
        PerfError: It does not start.
    """
    if name not in PEERS:
        raise UsageError(f"there is no peer {name}: choose from {', '.join(PEERS)}")
    peer = PEERS[name]
    if find_spec(peer.package) is None:
        raise ToolMissing(f"{name} is not installed: pip install '{peer.requirement}'")
    ports = Ports(0, 0, 0).resolve(LOCALHOST)
    process = _start(name, ports, network)
    log: list[str] = []
    threading.Thread(target=log.extend, args=(process.stderr,), daemon=True).start()
    try:
        found = [peer.user(ports, network) for _ in range(users)]
        _wait(process, found[0], log, name)
        yield found
    finally:
        _end(process)


def _start(name: str, ports: Ports, network: str) -> subprocess.Popen[str]:
    arguments = [*map(str, (ports.http, ports.grpc, ports.metrics)), network]
    return subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.{name}", *arguments],
        # PyTriton's Python stub needs the library of this Python, as our own server's stub does.
        env=os.environ | {"LD_LIBRARY_PATH": str(libpython_folder())},
        cwd=Path(__file__).parents[2],  # not a folder of the user, which may hold another `perf`
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[str]) -> None:
    running = process.poll() is None
    children = psutil.Process(process.pid).children(recursive=True) if running else []
    process.terminate()
    _, alive = psutil.wait_procs(children, timeout=10)
    for child in alive:  # LitServe's workers outlive it
        child.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)  # Ray's removes its files
    process.kill()
    process.wait()


def _wait(process: subprocess.Popen[str], user: User, log: list[str], name: str) -> None:
    file = sample_photographs()[0].read_bytes()
    deadline = time.monotonic() + _START_S
    while True:
        try:
            if len(user(file)) == 5:
                return
        except (PerfError, triton.InferenceServerException):
            time.sleep(0.3)
        if process.poll() is not None or time.monotonic() > deadline:
            reason = log[-1].strip() if log else "it wrote no message"
            raise PerfError(f"{name} did not start: {reason}")


def _http_user(
    port: int, encode: Callable[[bytes], bytes] = lambda file: file, kind: str = "image/jpeg"
) -> User:
    connection = http.client.HTTPConnection(LOCALHOST, port, timeout=60)

    def attempt(file: bytes) -> list[int]:
        try:
            connection.request("POST", "/predict", encode(file), {"Content-Type": kind})
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            raise
        if response.status != http.HTTPStatus.OK:
            raise PerfError(f"a peer answers {response.status}: {content[:200]!r}")
        return list(json.loads(content))

    def send(file: bytes) -> list[int]:
        try:
            return attempt(file)
        except (OSError, http.client.HTTPException):
            pass  # servers close connections that are idle between two turns
        try:
            return attempt(file)
        except (OSError, http.client.HTTPException) as error:
            raise PerfError(f"a peer does not answer any more: {error}") from None

    return send


def _image_user(ports: Ports, _: str) -> User:
    return _http_user(ports.http)


def _litserve_user(ports: Ports, _: str) -> User:
    def encode(file: bytes) -> bytes:
        return json.dumps({"image": base64.b64encode(file).decode()}).encode()

    return _http_user(ports.http, encode, "application/json")


def _pytriton_user(ports: Ports, network: str) -> User:
    contract = preprocessing_of(network)
    client = triton.InferenceServerClient(f"{LOCALHOST}:{ports.grpc}")

    def send(file: bytes) -> list[int]:
        batch = contract(load_image(file))[None]
        tensor = triton.InferInput("image", batch.shape, "FP32")
        tensor.set_data_from_numpy(batch)
        return top5(client.infer("network", [tensor]).as_numpy("probabilities")[0])

    return send


@dataclass(frozen=True)
class Peer:
    """A server of the same network.

    Attributes:
        package: The package that it needs.
        user: Makes a user, from the ports and from what `network.argument_of` returned.
        requirement: What pip installs it with.
    """

    package: str
    user: Callable[[Ports, str], User]
    requirement: str = ".[peers]"


PEERS = {
    "fastapi": Peer("fastapi", _image_user),
    "litserve": Peer("litserve", _litserve_user),
    "pytriton": Peer("pytriton", _pytriton_user),
    "rayserve": Peer("ray", _image_user, "ray[serve]"),
}
