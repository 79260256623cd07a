"""A server with answers that are written down, for what a real tritonserver seldom answers."""

from __future__ import annotations

import fcntl
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from seresnext101_triton.client.launches import Launch, is_locked

KEY = "the-key"


class Scripted(ThreadingHTTPServer):
    """Answers each request by a function, and notes it.

    Args:
        answer: Gets `METHOD /PATH`, and returns the status and the document, or bytes.

    Attributes:
        asked: The requests so far.
        bodies: The bodies of these requests.
        locked: For each of these requests, whether other processes were kept from changing models.
        launch: The launch that names this server.
    """

    daemon_threads = True
    launch: Launch

    def __init__(self, answer: Callable[[str], tuple[int, object]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.locked: list[bool] = []


class _Handler(BaseHTTPRequestHandler):
    server: Scripted

    def _answer(self) -> None:
        asked = f"{self.command} {self.path}"
        assert self.headers["triton-grpc-protocol-launch-key"] is None
        assert (self.headers["launch-key"], self.headers["Connection"]) == (KEY, "close")
        self.server.asked.append(asked)
        self.server.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        self.server.locked.append(is_locked(self.server.launch.file.with_suffix(".control")))
        status, document = self.server.answer(asked)
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def scripted(
    folder: Path, answer: Callable[[str], tuple[int, object]], **facts: object
) -> Iterator[Scripted]:
    """A server that runs, with its launch in a folder.

    Args:
        folder: The folder of the user's launches. The repository is the folder `models` in it.
        answer: As for `Scripted`.
        facts: What else its launch says.
    """
    with Scripted(answer) as server, ExitStack() as stack:
        launch = Launch(
            pid=1,
            repository=str(folder / "models"),
            address="127.0.0.1",
            grpc=1,
            http=server.server_port,
            metrics=3,
            key=KEY,
            restricted=(),
            workspace=str(folder / f"work-{server.server_port}"),
            shared_memory="",
            file=folder / f"{server.server_port}.json",
        )
        server.launch = replace(launch, **facts)  # type: ignore[arg-type]
        server.launch.models_folder.mkdir(parents=True)
        server.launch.file.touch(mode=0o600)
        server.launch.file.write_text(server.launch.to_json())
        for suffix in (".control", ".aside", ".canary"):
            server.launch.file.with_suffix(suffix).touch()
        lock = stack.enter_context(server.launch.file.with_suffix(".lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
