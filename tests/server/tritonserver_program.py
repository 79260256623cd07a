"""A program in the place of tritonserver: it listens, and answers as a file says.

It uses the standard library only, so that it is there in a moment. `$PROGRAM_FOLDER` names a folder
with `plan.json`, which is read for each answer. The program writes `starts`, a line for each start,
and `asked`, a line for each request that is no question.

Keys of the plan:
    log: Lines for its log.
    ends: What the first starts do instead of serving: end with this `code`, or by a signal if it is
        negative; `lose` the port of this name; `hang` after the death of a stub.
    index: The models and their states; `$MODELS` stands for the folder of the models.
    ready: The status of the question whether it is ready.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["PROGRAM_FOLDER"])
ARGUMENTS = dict(each[2:].partition("=")[::2] for each in sys.argv[1:])
STUB = "triton_python_backend_stub"


def plan() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "plan.json").read_text())
    return found


def note(file: str, line: str) -> int:
    """Write a line, and return the number of lines."""
    with (FOLDER / file).open("a") as lines:
        lines.write(f"{line}\n")
    return len((FOLDER / file).read_text().splitlines())


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(plan().get("ready", 200) if self.path.endswith("/ready") else 200, "")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/index"):
            index = json.dumps(plan()["index"]).replace("$MODELS", ARGUMENTS["model-repository"])
            self._answer(200, json.loads(index))
            return
        note("asked", self.path)
        model, _, change = self.path.partition("models/")[2].partition("/")
        if change == "unload":
            states = [
                each | ({"state": "UNAVAILABLE"} if each["name"] == model else {})
                for each in plan()["index"]
            ]
            (FOLDER / "plan.json").write_text(json.dumps(plan() | {"index": states}))
        self._answer(200, {})

    def _answer(self, status: int, document: object) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


def misbehave(how: dict[str, Any], ports: dict[str, int]) -> None:
    if name := how.get("lose"):
        print(f"E1127 10:00:00 1 x.cc:9] Socket '127.0.0.1:{ports[name]}' already in use ")
        sys.exit(1)
    if how.get("hang"):
        stub, model = FOLDER / STUB, FOLDER / "m" / "1" / "model.py"
        model.parent.mkdir(parents=True, exist_ok=True)
        model.write_text("kill -KILL $$")
        stub.unlink(missing_ok=True)
        stub.symlink_to("/bin/sh")
        child = subprocess.Popen([stub, model])
        time.sleep(600)
        child.wait()
    code: int = how["code"]
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    ports = {name: int(ARGUMENTS[f"{name}-port"]) for name in ("grpc", "http", "metrics")}
    start = {
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "cpus": sorted(os.sched_getaffinity(0)),
    }
    number = note("starts", json.dumps(start))
    for line in plan().get("log", ()):
        print(line, flush=True)
    if ends := plan().get("ends", [])[number - 1 :]:
        misbehave(ends[0], ports)
    for port in ports.values():  # it has no gRPC, and no metrics
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=server.serve_forever).start()


if __name__ == "__main__":
    main()
