"""Trials that take too long for every run of the tests. Each ends with an error if it fails.

python -m tests.server.trials deaths --minutes 10
python -m tests.server.trials race --times 50
python -m tests.server.trials garbage --seconds 60
python -m tests.server.trials fleet --minutes 5 --kills 20
python -m tests.server.trials rolls --times 4
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from seresnext101_triton.client import Classifier, TransportOptions
from seresnext101_triton.client.bulk import BulkEvents, BulkOptions, classify_into
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.client.server_side import IMAGE_TENSOR
from seresnext101_triton.export.canary import try_version
from seresnext101_triton.export.format import OUTPUT
from seresnext101_triton.export.operations import promote
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.serving import ImageInput
from seresnext101_triton.server.control import running
from seresnext101_triton.server.errors import LoadError, ServerError
from seresnext101_triton.server.ports import owner
from tests.conftest import FREE_PORTS, QUIET, onnx_convolution, tiny_request, write_model
from tests.server.launching import DEADLINE_S, Launcher, launcher
from tests.versions import (
    ARTIFACT,
    MODEL,
    Caller,
    answer_of,
    mistaken,
    rewrite_manifest,
    versions_of_one_model,
)


def deaths(
    folder: Path, minutes: float, callers: int, images: int, stubs: int, servers: int
) -> None:
    """Kill stubs and servers at random moments under a steady load, and a bulk run beside it."""
    outcomes = export(tiny_request(folder / "models", formats=("onnx",)), QUIET)
    model = outcomes[0].model
    photographs = [str(path) for path in sample_photographs()]
    names = [str(folder / f"{number:05}.jpg") for number in range(images)]
    for number, name in enumerate(names):
        os.symlink(photographs[number % len(photographs)], name)
    finished, answered, wrong = threading.Event(), [0] * callers, []
    with launcher(folder / "models") as started:
        url = started.launch().url

        def call(number: int) -> None:
            options = TransportOptions(retries=100, protocol="grpc")
            with Classifier(url, model, transport_options=options) as classifier:
                batch = classifier.prepare(photographs[number % len(photographs)])[None]
                expected = classifier.infer(batch)
                while not finished.is_set():
                    try:
                        if (classifier.infer(batch) != expected).any():
                            wrong.append("another answer")
                    except Exception as error:
                        wrong.append(repr(error))
                    answered[number] += 1

        notes: list[str] = []

        def run_bulk() -> None:
            options = BulkOptions(patience_s=DEADLINE_S, top=1, batch=4)
            with Classifier(url, model) as classifier:
                classify_into(
                    folder / "answers.jsonl",
                    lambda: iter(names),
                    classifier,
                    options,
                    BulkEvents(note=notes.append),
                )

        threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
        threads.append(threading.Thread(target=run_bulk))
        for thread in threads:
            thread.start()
        victims = ["stub"] * stubs + ["server"] * servers
        chance = random.Random(0)
        chance.shuffle(victims)
        times: dict[str, list[float]] = {"stub": [], "server": []}
        start = time.monotonic()
        moments = sorted(chance.uniform(0, minutes * 60) for _ in victims)
        for moment, victim in zip(moments, victims, strict=True):
            time.sleep(max(0.0, start + moment - time.monotonic()))
            after = len(started.lines)
            pids = started.stubs(model) if victim == "stub" else [started.server()]
            os.kill(pids[0], signal.SIGKILL)
            killed = time.monotonic()
            started.expect("ready again", after)
            times[victim].append(time.monotonic() - killed)
        time.sleep(max(0.0, start + minutes * 60 - time.monotonic()))
        finished.set()
        for thread in threads:
            thread.join()
        launch = started.launch()
    records = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert not wrong, wrong[:3]
    assert sorted(record["image"] for record in records) == names
    assert all("predictions" in record for record in records)
    assert not list(Path("/dev/shm").glob(f"{launch.shared_memory}*"))
    for victim, seconds in times.items():
        print(
            f"{victim}: killed {len(seconds)} times, ready again after "
            f"{statistics.median(seconds):.1f} s (median), {max(seconds):.1f} s (longest)"
        )
    print(f"restarts counted: {launch.restarts}")
    print(f"{sum(answered)} requests of {callers} callers in {minutes:g} minutes, none failed")
    print(f"bulk: {len(records)} images, each once; it waited {len(notes) // 2} times")


def race(folder: Path, times: int) -> None:
    """Start two launchers at the same moment on the same ports."""
    config = 'platform: "onnxruntime_onnx" instance_group { kind: KIND_CPU count: 1 }'
    names = ("first", "second")
    for name in names:
        content = {"model.onnx": onnx_convolution((3, 4, 4))}
        write_model(folder / name, f"model_of_{name}", config, content)
    for _ in range(times):
        ports = FREE_PORTS.resolve("127.0.0.1")
        launchers = [Launcher(folder / name, ports=ports) for name in names]
        try:
            loser = _first_to_end(launchers)
            (winner,) = (each for each in launchers if each is not loser)
            winner.expect("gRPC ")
            assert loser.process.returncode == 1, loser.lines
            assert "cannot listen on 127.0.0.1:" in loser.lines[-1], loser.lines
            assert f"process {winner.server()} does" in loser.lines[-1], loser.lines
            assert not _served(loser), loser.lines
            assert _served(winner) == {f"model_of_{winner.repository.name}"}, winner.lines
            assert winner.end() == 0
        finally:
            for each in launchers:
                each.process.kill()
    print(f"{times} times: one launcher served its own model, the other ended with code 1")


def garbage(folder: Path, seconds: float, callers: int) -> None:
    """Send image files, one in ten of which is bad, and see that each has its own answer.

    The memory is that of the server and its stubs: the sum of their proportional shares.
    """
    request = tiny_request(folder / "models", formats=("onnx",), image_input=ImageInput())
    model = f"{export(request, QUIET)[0].model}_image"
    photographs = [path.read_bytes() for path in sample_photographs()]
    counts, wrong = {"good": 0, "bad": 0}, []
    lock, finished = threading.Lock(), threading.Event()
    with launcher(folder / "models") as started:
        url = started.launch().url
        with grpc.InferenceServerClient(url) as client:
            expected = [_scores(client, model, content) for content in photographs]

        def call(number: int) -> None:
            chance = random.Random(number)
            with grpc.InferenceServerClient(url) as client:
                while not finished.is_set():
                    which = chance.randrange(len(photographs))
                    bad = chance.random() < 0.1
                    content = photographs[which]
                    if bad:  # its length is in the message of the error
                        length = chance.randrange(1, len(content) // 2)
                        cut = chance.random() < 0.5
                        content = content[:length] if cut else chance.randbytes(length)
                    try:
                        scores = _scores(client, model, content)
                        right = not bad and (scores == expected[which]).all()
                        found = "another answer"
                    except InferenceServerException as error:
                        found = error.message()
                        right = bad and f"{len(content)} bytes" in found and "ImageError" in found
                    with lock:
                        counts["bad" if bad else "good"] += 1
                        if not right:
                            wrong.append(found)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
        memory = [_memory_mib(started)]
        for thread in threads:
            thread.start()
        for _ in range(6):
            time.sleep(seconds / 6)
            memory.append(_memory_mib(started))
        finished.set()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:3]
    print(f"{counts['good']} good requests of {callers} callers, each with its right answer")
    print(f"{counts['bad']} bad requests, each with its own error")
    print(f"MiB, before and every {seconds / 6:g} s: {', '.join(f'{each:.0f}' for each in memory)}")
    # The first sixth warms up the allocators.
    assert memory[-1] < 1.1 * memory[1], memory


def fleet(folder: Path, minutes: float, callers: int, kills: int) -> None:
    """Kill the servers of a fleet of two by turns, under callers that send nothing twice."""
    model = export(tiny_request(folder / "models", formats=("onnx",)), QUIET)[0].model
    finished, answered, wrong = threading.Event(), [0] * callers, []
    image = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    tensor = grpc.InferInput("INPUT__0", list(image.shape), "FP32")
    tensor.set_data_from_numpy(image)
    with launcher(folder / "models", "--replicas", "2") as started:
        url = started.launch(gateway=True).url
        with grpc.InferenceServerClient(url) as client:
            expected = client.infer(model, [tensor]).as_numpy(OUTPUT)

        def call(number: int) -> None:
            with grpc.InferenceServerClient(url) as client:
                while not finished.is_set():
                    try:
                        answer = client.infer(model, [tensor]).as_numpy(OUTPUT)
                        if not np.allclose(answer, expected, rtol=1e-4, atol=1e-7):
                            wrong.append("another answer")
                    except InferenceServerException as error:
                        wrong.append(str(error))
                    answered[number] += 1

        threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
        for thread in threads:
            thread.start()
        start, times = time.monotonic(), []
        for number in range(kills):
            due = start + minutes * 60 * (number + 0.5) / kills
            time.sleep(max(0.0, due - time.monotonic()))
            after = len(started.lines)
            launches = sorted(running(started.repository), key=lambda each: each.grpc)
            os.kill(owner(launches[number % 2].grpc) or 0, signal.SIGKILL)
            killed = time.monotonic()
            started.expect("ready again", after)
            times.append(time.monotonic() - killed)
            time.sleep(4)  # Envoy asks once a second whether a server is ready again
        time.sleep(max(0.0, start + minutes * 60 - time.monotonic()))
        finished.set()
        for thread in threads:
            thread.join()
    assert not wrong, (len(wrong), wrong[:3])
    print(
        f"servers killed {kills} times, ready again after {statistics.median(times):.1f} s "
        f"(median), {max(times):.1f} s (longest)"
    )
    print(f"{sum(answered)} requests of {callers} callers in {minutes:g} minutes, none failed")


def rolls(folder: Path, times: int, callers: int) -> None:
    """Promote good versions and one that answers wrongly by turns, in a fleet of two."""
    root = versions_of_one_model(folder / "models", 2)
    answers = {version: answer_of(root, version) for version in (1, 2)}
    wrong = shutil.copytree(root / MODEL / "1", root / MODEL / "3")
    (wrong / ARTIFACT).write_bytes(mistaken(wrong / ARTIFACT))
    rewrite_manifest(wrong)
    promote(root, MODEL, to=2)
    with launcher(root, "--replicas", "2") as started, ExitStack() as load:
        url = started.launch(gateway=True).url
        asking = [Caller(url, answers) for _ in range(callers)]
        for each in asking:
            load.enter_context(each.calling())
        taken = []
        for number in range(times):
            for version in (1 + number % 2, 3):
                begin = time.monotonic()
                try:
                    promote(root, MODEL, to=version)
                    assert version != 3, "the wrong version was promoted"
                except LoadError as error:
                    assert version == 3 and "answers otherwise" in str(error), error
                taken.append(time.monotonic() - begin)
    seen = Counter(version for each in asking for version in each.seen)
    errors = [error for each in asking for error in each.errors]
    assert not errors and set(seen) == {1, 2}, (seen, errors[:3])
    print(
        f"{times} versions promoted and {times} refused, each in {statistics.median(taken):.1f} s "
        f"(median): {seen.total()} answers to {callers} callers, all of a promoted version"
    )


def canary(folder: Path, seconds: float, callers: int) -> None:
    """Let callers of a fleet of two try a version, and then kill the server that has it."""
    root = versions_of_one_model(folder / "models", 2)
    promote(root, MODEL, to=1)
    answers = {version: answer_of(root, version) for version in (1, 2)}
    with launcher(root, "--replicas", "2") as started, ExitStack() as load:
        url = started.launch(gateway=True).url
        asking = [Caller(url, answers) for _ in range(callers)]
        for each in asking:
            load.enter_context(each.calling())

        def kill(_: str) -> None:
            (tried,) = (each for each in running(root) if each.canary)
            os.kill(owner(tried.grpc) or 0, signal.SIGKILL)

        trial = try_version(root, MODEL, 2, 10, seconds, print)
        try:
            try_version(root, MODEL, 2, 10, seconds, kill)
            raise AssertionError("the server was killed, and its version accepted")
        except ServerError as error:
            print(f"killed: {error}")
        before = [len(each.seen) for each in asking]
        time.sleep(seconds)
    errors = [error for each in asking for error in each.errors]
    after = Counter(v for each, n in zip(asking, before, strict=True) for v in each.seen[n:])
    seen = Counter(version for each in asking for version in each.seen)
    assert not errors and set(seen) == {1, 2} and set(after) == {1}, (seen, after, errors[:3])
    old, new = (round(row.requests_per_s * seconds) for row in trial.rows)
    print(
        f"{new} of {old + new} answers ({new / (old + new):.2%}) were of the version on trial; "
        f"{seen.total()} answers to {callers} callers, none lost; afterwards {after.total()} of "
        "the served version and none of the other"
    )


def _scores(client: grpc.InferenceServerClient, model: str, content: bytes) -> np.ndarray:
    """The scores of one image file, without this project's client."""
    tensor = grpc.InferInput(IMAGE_TENSOR, [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[content]], dtype=np.object_))
    return client.infer(model, [tensor]).as_numpy(OUTPUT)[0]


def _memory_mib(started: Launcher) -> float:
    server = psutil.Process(started.server())
    processes = [server, *server.children(recursive=True)]
    return sum(each.memory_full_info().pss for each in processes) / (1 << 20)


def _served(started: Launcher) -> set[str]:
    """The models that a launcher has announced."""
    return {line.split()[0] for line in started.lines if line.endswith(": ready")}


def _first_to_end(launchers: list[Launcher]) -> Launcher:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        for each in launchers:
            if each.process.poll() is not None:
                each._reader.join()
                return each
        time.sleep(0.05)
    raise AssertionError("both launchers run")


def main() -> None:
    """Run one trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="trial", required=True)
    one = commands.add_parser("deaths")
    one.add_argument("--minutes", type=float, default=10)
    one.add_argument("--callers", type=int, default=8)
    one.add_argument("--images", type=int, default=5000)
    one.add_argument("--stubs", type=int, default=30)
    one.add_argument("--servers", type=int, default=5)
    commands.add_parser("race").add_argument("--times", type=int, default=50)
    one = commands.add_parser("garbage")
    one.add_argument("--seconds", type=float, default=60)
    one.add_argument("--callers", type=int, default=32)
    one = commands.add_parser("fleet")
    one.add_argument("--minutes", type=float, default=5)
    one.add_argument("--callers", type=int, default=16)
    one.add_argument("--kills", type=int, default=20)
    one = commands.add_parser("rolls")
    one.add_argument("--times", type=int, default=4)
    one.add_argument("--callers", type=int, default=16)
    one = commands.add_parser("canary")
    one.add_argument("--seconds", type=float, default=20)
    one.add_argument("--callers", type=int, default=16)
    options = vars(parser.parse_args())
    trial = options.pop("trial")
    with tempfile.TemporaryDirectory() as folder:
        trials: dict[str, Callable[..., None]] = {
            "deaths": deaths,
            "race": race,
            "garbage": garbage,
            "fleet": fleet,
            "rolls": rolls,
            "canary": canary,
        }
        trials[trial](Path(folder), **options)


if __name__ == "__main__":
    main()
