"""Kills what takes part in `bulk --engine ray`, and compares its answers with those of `bulk`.

    PYTHONPATH=.venv/ray python -m tests.client.trials.ray --images 20000

Two nodes of Ray run on this machine, and a real tritonserver serves the small network. Under way
SIGKILL ends an actor, then a node, then the command itself, which is run again. Each image must
have one answer, the one that `bulk` has. Then both engines classify the images without a kill, by
turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from PIL import Image

from seresnext101_triton.client import Connection
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.serving import Serving
from seresnext101_triton.server.launcher import Server
from tests.client.ray_nodes import ENVIRONMENT, Nodes, nodes
from tests.conftest import FREE_PORTS, QUIET, tiny_request

MODEL = "tiny_onnx"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000, metavar="N")
    parser.add_argument("--turns", type=int, default=2, metavar="N", help="0 measures nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        draw(folder / "photos", options.images)
        export(
            tiny_request(folder / "models", formats=("onnx",), serving=Serving(max_batch=8)), QUIET
        )
        with (
            Server(folder / "models", ports=FREE_PORTS) as server,
            nodes(folder / "ray", 1) as cluster,
        ):
            trial = Trial(folder, cluster, server.url, options.images)
            trial.kill_everything()
            for _ in range(options.turns):
                trial.measure()
    return 0


def draw(folder: Path, count: int) -> None:
    """Small photographs that all differ, of which one cannot be read."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((96, 96))
        picture.save(folder / f"{number:06}.jpg")
    (folder / "000017.jpg").write_bytes(b"nothing")


class Trial:
    """The images, the nodes and the server of a trial."""

    def __init__(self, folder: Path, cluster: Nodes, url: str, images: int) -> None:
        self.folder, self.cluster, self.url, self.images = folder, cluster, url, images
        self.measured = 0

    def bulk(self, output: str, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "client", "bulk", str(self.folder / "photos")]
        command += ["--output", str(self.folder / output), "--model", MODEL, "--url", self.url]
        return subprocess.Popen(
            [*command, *options], stderr=subprocess.PIPE, text=True, env=os.environ | ENVIRONMENT
        )

    def on_ray(self, output: str) -> subprocess.Popen[str]:
        return self.bulk(output, "--engine", "ray", "--ray-address", self.cluster.address)

    def kill_everything(self) -> None:
        """The trial: three kills, a second run, and what is read back."""
        finished(self.bulk("expected.jsonl"))
        with Connection(self.url) as connection:

            def answered() -> int:
                return sum(each.images for each in connection.counters(MODEL))

            start = answered()
            command = self.on_ray("answers.parquet")
            kills = (
                (0.15, "an actor", self.kill_actor),
                (0.35, "a node", self.kill_node),
                (0.75, "the command", command.kill),
            )
            for share, what, kill in kills:
                while answered() - start < share * self.images:
                    assert command.poll() is None, command.communicate()[1]
                    time.sleep(0.05)
                print(f"SIGKILL of {what} after {answered() - start} answers", flush=True)
                kill()
            command.communicate()
            kept = len(self.rows())
            print(f"the output has {kept} rows; run again")
            finished(self.on_ray("answers.parquet"))
            print(f"the server answered {answered() - start} images for {self.images}")
        self.compare()

    def kill_actor(self) -> None:
        self.cluster.head.actors()[0].kill()

    def kill_node(self) -> None:
        """End a node as if its machine had failed, and start another one in its place."""
        self.cluster.others.pop().kill()
        self.cluster.add()

    def rows(self) -> list[dict[str, Any]]:
        """What is read back: nothing, if no file was complete."""
        parts = sorted((self.folder / "answers.parquet").glob("*.parquet"))
        return [row for part in parts for row in pyarrow.parquet.read_table(part).to_pylist()]

    def compare(self) -> None:
        """Each image once, with the prediction of `bulk`."""
        rows = self.rows()
        times = Counter(Counter(row["image"] for row in rows).values())
        lines = (self.folder / "expected.jsonl").read_text().splitlines()
        expected = {one["image"]: one for one in map(json.loads, lines)}
        wrong = sum(not same(row, expected[row["image"]]) for row in rows)
        print(f"read back: {len(rows)} rows, {times[1]} images once, {wrong} wrong")
        assert len(rows) == times[1] == self.images and not wrong

    def measure(self) -> None:
        """Images per second of both engines, from the start of the command to its end."""
        self.measured += 1
        for engine, start in {"local": self.bulk, "ray": self.on_ray}.items():
            began = time.monotonic()
            finished(start(f"{engine}-{self.measured}.jsonl"))
            seconds = time.monotonic() - began
            rate = self.images / seconds
            print(f"engine {engine}: {rate:.0f} images/s, {seconds:.1f} s", flush=True)


def same(row: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether a row says what a line of `bulk` says."""
    if row["error"] is not None:
        return "is not an image" in row["error"] and "error" in expected
    pairs = zip(row["predictions"], expected["predictions"], strict=True)
    return all(
        one["index"] == other["index"] and abs(one["probability"] - other["probability"]) < 1e-6
        for one, other in pairs
    )


def finished(process: subprocess.Popen[str]) -> None:
    """Wait for a command. Its exit code is 1 if it met the image that cannot be read."""
    _, messages = process.communicate()
    print(messages, end="", flush=True)
    assert process.returncode in (0, 1)


if __name__ == "__main__":
    sys.exit(main())
