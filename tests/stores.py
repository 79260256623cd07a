"""A real S3 server, and small repositories in it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from seresnext101_triton.export import promotion
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.export.sharing import opened
from seresnext101_triton.server import store
from seresnext101_triton.server.mirror import INDEX, Index
from seresnext101_triton.server.store import Store

MODEL = "m"
CONFIG = 'backend: "onnxruntime" max_batch_size: 4 output { name: "OUTPUT__0" }'


@contextmanager
def s3_server(folder: Path) -> Iterator[Mapping[str, str]]:
    """A server with one bucket, `bucket`.

    Args:
        folder: Where moto is installed.

    Yields:
        The environment of those who use it.
    """
    assert folder.is_dir(), "moto is not installed: `make .venv/moto`"
    command = [sys.executable, str(Path(__file__).with_name("moto_server.py"))]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdin and process.stdout
    try:
        endpoint = f"http://127.0.0.1:{int(process.stdout.readline())}"
        ask(endpoint, "PUT", "/bucket")
        yield {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "A-SECRET",
            "AWS_REGION": "us-east-1",
            # What asks this machine's provider for credentials finds nobody.
            "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9",
        }
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def ask(endpoint: str, method: str, path: str, content: bytes = b"") -> bytes:
    """A request that is not signed."""
    headers = {"Content-Type": "text/plain"}
    request = urllib.request.Request(
        endpoint + path, content or None, method=method, headers=headers
    )
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def publish(url: str, content: str) -> int:
    """Publish a version of a small model, as an export does, and return its number."""
    with opened(url) as place:
        repository = Repository(place.folder)
        with repository.exclusive() as publication:
            built = publication.scratch()
            artifact = content.encode() + b"\xff"
            (built / "model.onnx").write_bytes(artifact)
            staged = publication.stage(MODEL)
            number = repository.next_version(MODEL)
            digest = hashlib.sha256(artifact).hexdigest()
            facts = {"file": "model.onnx", "sha256": digest, "bytes": len(artifact)}
            (built / "manifest.json").write_text(json.dumps({"artifacts": [facts]}))
            staged.add_version(number, built)
            texts = {"config.pbtxt": CONFIG, "labels.txt": f"{content}\n"}
            promotion.add(staged, number, texts)
            publication.publish()
    return number


def publish_killed(url: str, content: str, at: int) -> None:
    """The same in a process that ends by SIGKILL before a request that writes or removes.

    Args:
        url: The repository.
        content: The content of the version.
        at: Which of these requests, from 1 on. 0 means none.
    """
    count = 0

    def counted(call: Any) -> Any:
        def request(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return request

    store.Store._put = counted(store.Store._put)  # type: ignore[method-assign]
    store.Store.remove = counted(store.Store.remove)  # type: ignore[method-assign]
    publish(url, content)


class Publisher:
    """A process that publishes, each time in a copy of itself that has not asked a store yet.

    It has imported all that it needs, so that this takes no time.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def begin(self, url: str, content: str, at: int = 0) -> None:
        """Begin to publish as `publish_killed` does, with the environment of this process."""
        assert self._process.stdin
        asked = json.dumps([dict(os.environ), url, content, at])
        print(asked, file=self._process.stdin, flush=True)

    def code(self) -> int:
        """Wait for the end, and return the exit code: below zero after a signal."""
        assert self._process.stdout
        return int(self._process.stdout.readline())


def _serve() -> None:
    for line in sys.stdin:
        environment, url, content, at = json.loads(line)
        os.environ.update(environment)
        if child := os.fork():
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
        else:
            publish_killed(url, content, at)
            os._exit(0)


def objects(url: str) -> dict[str, bytes]:
    """Every object of a repository."""
    import obstore

    opened_store = Store(url)._store
    return {
        found["path"]: bytes(obstore.get(opened_store, found["path"]).bytes())
        for found in obstore.list(opened_store).collect()
    }


def index_of(found: Mapping[str, bytes]) -> Index:
    """The index among the objects."""
    return Index.of(found[INDEX], "") if INDEX in found else Index()


def served(found: Mapping[str, bytes]) -> list[int]:
    """The versions that a Triton loads that reads these objects now.

    All that it would read of them is there, and is what was published.
    """
    config = pb.ModelConfig()
    if f"{MODEL}/config.pbtxt" not in found:
        # Triton makes a config up for an artifact without one.
        assert not any(path.startswith(f"{MODEL}/") for path in found)
        return []
    text_format.Parse(found[f"{MODEL}/config.pbtxt"].decode(), config)
    assert config.version_policy.WhichOneof("policy_choice") == "specific"
    versions = [each for each in config.version_policy.specific.versions if each]
    for version in versions:
        start = f"{MODEL}/{version}/"
        (facts,) = json.loads(found[f"{start}manifest.json"])["artifacts"]
        artifact = found[start + facts["file"]]
        assert hashlib.sha256(artifact).hexdigest() == facts["sha256"]
    return versions


if __name__ == "__main__":
    _serve()
