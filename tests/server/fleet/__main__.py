"""`python -m tests.server.fleet REPOSITORY MODEL` kills servers under load, and counts the losses.

Two `python -m server` serve the repository behind an Envoy. 16 callers send requests, while one
tritonserver after the other is killed. Each kill waits until both servers are ready again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from seresnext101_triton.server.fleet.gateway import Endpoint, Gateway
from seresnext101_triton.server.ports import Ports
from tests.server.fleet.envoy import healthy, running

CALLERS = 16
PROJECT = Path(__file__).parents[3]


def serve(repository: Path, ports: Ports) -> subprocess.Popen[bytes]:
    """Start a supervised server."""
    options = [f"--{name}-port={port}" for name, port in vars(ports).items()]
    command = [sys.executable, "-m", "server", "--repository", str(repository), *options]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)


def kill(supervisor: subprocess.Popen[bytes]) -> None:
    """Kill the tritonserver of a supervisor, which then starts another."""
    (found,) = (
        each
        for each in psutil.Process(supervisor.pid).children(recursive=True)
        if "tritonserver" in each.name()
    )
    os.kill(found.pid, signal.SIGKILL)


def main() -> int:
    """Run the trial, print its result, and end with 1 if a request was lost or answered wrongly."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("repository", type=Path)
    parser.add_argument("model")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--crop", type=int, default=224)
    options = parser.parse_args()
    image = np.random.default_rng(0).random((2, 3, options.crop, options.crop), np.float32)
    tensor = triton.InferInput("INPUT__0", list(image.shape), "FP32")
    tensor.set_data_from_numpy(image)
    answered: list[int] = []
    errors: list[str] = []
    ended = threading.Event()
    with ExitStack() as stack:
        places = [Ports(0, 0, 0).resolve("127.0.0.1") for _ in "123"]
        supervisors = [serve(options.repository.resolve(), each) for each in places[:2]]
        for each in supervisors:
            stack.callback(each.wait)
            stack.callback(each.terminate)
        servers = tuple(Endpoint("127.0.0.1", each.grpc, each.http) for each in places[:2])
        own = places[2]
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        path = Path(folder, "envoy.json")
        gateway = Gateway(servers, grpc=own.grpc, http=own.http, admin=own.metrics)
        path.write_text(gateway.to_text())
        stack.enter_context(running(path, gateway.admin))

        def both_ready() -> None:
            while len(healthy(gateway.admin, "grpc")) < 2:
                assert all(each.poll() is None for each in supervisors), "a supervisor has ended"
                time.sleep(0.2)

        both_ready()
        with triton.InferenceServerClient(f"127.0.0.1:{servers[0].grpc}") as client:
            expected = client.infer(options.model, [tensor]).as_numpy("OUTPUT__0")

        def call(_: int) -> None:
            with triton.InferenceServerClient(f"127.0.0.1:{gateway.grpc}") as client:
                while not ended.is_set():
                    try:
                        answer = client.infer(options.model, [tensor]).as_numpy("OUTPUT__0")
                        right = np.allclose(answer, expected, rtol=1e-4, atol=1e-7)
                        answered.append(int(right))
                    except InferenceServerException as error:
                        errors.append(str(error))

        with ThreadPoolExecutor(CALLERS) as pool:
            calls = [pool.submit(call, caller) for caller in range(CALLERS)]
            begin = time.monotonic()
            try:
                for number in range(options.kills):
                    due = begin + options.seconds * (number + 0.5) / options.kills
                    time.sleep(max(0.0, due - time.monotonic()))
                    both_ready()
                    kill(supervisors[number % 2])
                    time.sleep(4)  # Envoy needs up to 3 s to see it
                both_ready()
            finally:
                ended.set()
            for each_call in calls:
                each_call.result()
        took = time.monotonic() - begin
    result = {
        "kills": options.kills,
        "seconds": round(took),
        "answered": len(answered),
        "wrong": len(answered) - sum(answered),
        "lost": len(errors),
        "errors": sorted(set(errors))[:5],
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return int(bool(result["lost"] or result["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
