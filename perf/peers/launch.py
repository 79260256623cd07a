"""Starts a peer, and asks it as a person would: a photograph in, its top-5 out."""

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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec

import psutil
import tritonclient.grpc as triton

from client.images import sample_photographs
from perf.errors import PerfError
from perf.peers.network import ARCHITECTURE_VARIABLE, prepare, top5
from server.installation import libpython_folder
from server.launcher import LOCALHOST, Ports

_START_S = 120.0
Ask = Callable[[bytes], list[int]]


def closed_loop(asks: list[Ask], seconds: float) -> float:
    """As many people as there are `asks`, each with one photograph after the other, for so long: images a second."""
    files = [path.read_bytes() for path in sample_photographs()]
    started = time.perf_counter()

    def person(index: int) -> int:
        count = 0
        while time.perf_counter() - started < seconds:
            asks[index](files[(index + count) % len(files)])
            count += 1
        return count

    with ThreadPoolExecutor(len(asks)) as people:
        answered = sum(people.map(person, range(len(asks))))
    return answered / (time.perf_counter() - started)


@contextmanager
def peer(name: str, people: int, architecture: str) -> Iterator[list[Ask]]:
    """A running peer, and a way to ask it for each person.

    Raises:
        PerfError: There is no such peer, its package is missing, or it did not start.
    """
    if name not in PEERS:
        raise PerfError(f"there is no peer {name}: choose from {', '.join(PEERS)}")
    if find_spec(name) is None:
        raise PerfError(f"{name} is not installed: pip install '.[peers]'")
    ports = Ports(0, 0, 0).resolve(LOCALHOST)
    process = subprocess.Popen(
        [sys.executable, "-m", f"perf.peers.{name}", *map(str, (ports.http, ports.grpc, ports.metrics))],
        # PyTriton's stub of Python needs the library of this very Python, as our own server's does.
        env=os.environ | {ARCHITECTURE_VARIABLE: architecture, "LD_LIBRARY_PATH": str(libpython_folder())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said: list[str] = []
    assert process.stderr is not None
    threading.Thread(target=lambda stream: said.extend(stream), args=(process.stderr,), daemon=True).start()
    try:
        asks = [_ASKS[name](ports.grpc if name == "pytriton" else ports.http) for _ in range(people)]
        _wait(process, asks[0], said, name)
        yield asks
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=10)
        for each in alive:  # LitServe's workers outlive it
            each.kill()
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[str], ask: Ask, said: list[str], name: str) -> None:
    file = sample_photographs()[0].read_bytes()
    deadline = time.monotonic() + _START_S
    while True:
        try:
            if len(ask(file)) == 5:
                return
        except (PerfError, triton.InferenceServerException):
            time.sleep(0.3)
        if process.poll() is not None or time.monotonic() > deadline:
            raise PerfError(f"{name} did not start: {said[-1].strip() if said else 'it said nothing'}")


def _http(port: int, encode: Callable[[bytes], bytes] = lambda file: file, kind: str = "image/jpeg") -> Ask:
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

    def ask(file: bytes) -> list[int]:
        try:
            return attempt(file)
        except (OSError, http.client.HTTPException):
            pass  # servers close connections that rest between two turns
        try:
            return attempt(file)
        except (OSError, http.client.HTTPException) as error:
            raise PerfError(f"a peer does not answer any more: {error}") from None

    return ask


def _json(port: int) -> Ask:
    return _http(port, lambda file: json.dumps({"image": base64.b64encode(file).decode()}).encode(), "application/json")


def _pytriton(port: int) -> Ask:
    client = triton.InferenceServerClient(f"{LOCALHOST}:{port}")

    def ask(file: bytes) -> list[int]:
        tensor = triton.InferInput("image", [1, 3, 224, 224], "FP32")
        tensor.set_data_from_numpy(prepare(file)[None])
        return top5(client.infer("network", [tensor]).as_numpy("probabilities")[0])

    return ask


_ASKS = {"fastapi": _http, "litserve": _json, "pytriton": _pytriton}
PEERS = tuple(_ASKS)
