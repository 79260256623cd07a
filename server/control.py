"""Loads and unloads models of a server that runs, with the key of its launch.

`running(repository)` finds the servers of a repository that this user runs, also from another
process. `Control` asks one of them.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote

from seresnext101_triton.client.launches import KEY_NAME, Launch, running_launches
from seresnext101_triton.client.served import LOADING, READY, UNLOADING, ModelState, version_order
from seresnext101_triton.server.errors import LoadError, ServerError

# A model loads within minutes, and every other question is answered at once.
LOAD_TIMEOUT_S = 600.0
_ANSWER_TIMEOUT_S = 10.0
_POLL_S = 0.1


def running(repository: Path) -> list[Launch]:
    """The servers of this user that serve a repository now, without the gateways of fleets."""
    wanted = str(repository.resolve())
    launches = (launch for launch in running_launches() if not launch.replicas)
    return [launch for launch in launches if launch.repository == wanted]


class Control:
    """Asks the server of one launch, over HTTP on this machine.

    Each question has a connection of its own, because a server that ends waits for the connections
    that are open. Any thread may use it.

    Args:
        launch: The launch, as `running` or `Server.launch` gives it.

    All methods raise `ServerError` if the server does not answer.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    def is_live(self) -> bool:
        """Whether the server answers."""
        try:
            return self._ask("GET", "health/live")[0] == http.client.OK
        except ServerError:
            return False

    def is_ready(self) -> bool:
        """Whether the server calls itself and all its models ready."""
        return self._ask("GET", "health/ready")[0] == http.client.OK

    def index(self) -> list[ModelState]:
        """The server's models and their states, sorted by name and version.

        Raises:
            ServerError: The server does not accept the key of the launch.
        """
        status, answer = self._ask("POST", "repository/index", {})
        if status != http.client.OK or not isinstance(answer, list):
            raise ServerError(f"{self._place} does not list its models: {_said(answer)}")
        names = ("name", "version", "state", "reason")
        states = [ModelState(**{name: model.get(name, "") for name in names}) for model in answer]
        return sorted(states, key=lambda model: (model.name, version_order(model.version)))

    def ready_versions(self, model: str) -> list[int]:
        """The versions of a model that answer, oldest first. It raises what `index` does."""
        states = self.index()
        return [int(each.version) for each in states if (each.name, each.state) == (model, READY)]

    def instances(self, model: str, version: str) -> int:
        """The number of instances of a version that is loaded, each of which has its own stub.

        Raises:
            ServerError: The version is not loaded.
        """
        path = f"models/{quote(model, safe='')}/versions/{version}/config"
        status, answer = self._ask("GET", path)
        if status != http.client.OK or not isinstance(answer, dict):
            raise ServerError(f"{self._place} does not tell a config: {_said(answer)}")
        groups = answer.get("instance_group", ())
        return sum(group["count"] * max(1, len(group.get("gpus", ()))) for group in groups)

    def load(
        self, model: str, timeout_s: float = LOAD_TIMEOUT_S, *, is_exclusive: bool = False
    ) -> None:
        """Load a model, or load it again if its files have changed.

        Triton reads `config.pbtxt` again and loads the versions that its version policy names. It
        goes on serving the versions of before until the new ones are ready, and keeps them if the
        new ones cannot be loaded. It does nothing if nothing has changed.

        Args:
            model: The model.
            timeout_s: How long to wait, in seconds.
            is_exclusive: Whether the caller keeps other processes from changing models already.

        Raises:
            LoadError: The model cannot be loaded. The message has the server's reason.
        """
        with nullcontext() if is_exclusive else self.exclusively():
            self._change(model, "load", timeout_s)

    def unload(self, model: str, timeout_s: float = _ANSWER_TIMEOUT_S) -> None:
        """Unload a model. Requests in flight are answered; later ones are refused at once.

        Raises:
            LoadError: The server refuses it.
        """
        with self.exclusively():
            self._change(model, "unload", timeout_s)

    def reload(self, model: str, timeout_s: float = LOAD_TIMEOUT_S) -> None:
        """Unload a model and load it, so that all its processes are new.

        Raises:
            LoadError: The model cannot be loaded again.
        """
        with self.exclusively():
            self._change(model, "unload", _ANSWER_TIMEOUT_S)
            self._change(model, "load", timeout_s)

    def go_back(self, model: str, unwanted: Collection[int]) -> None:
        """Load a model again, whose config names other versions now, and wait for the others' end.

        Triton may have loaded a version before it has unloaded a newer one, which answers until
        then.

        Args:
            model: The model.
            unwanted: The versions that must not answer any more.

        Raises:
            LoadError: The model cannot be loaded.
        """
        self.load(model)
        deadline = time.monotonic() + LOAD_TIMEOUT_S
        while set(self.ready_versions(model)) & set(unwanted) and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def wait_until_unloaded(self, models: Sequence[str], timeout_s: float) -> bool:
        """Wait until models have answered their last request. False if time has run out."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            states = {state.state for state in self.index() if state.name in models}
            if not states & {READY, LOADING, UNLOADING}:
                return True
            time.sleep(_POLL_S)
        return False

    @contextmanager
    def exclusively(self, *, waits: bool = True) -> Iterator[None]:
        """Keep other processes from changing models of this server in the meantime.

        Args:
            waits: Whether to wait for another process that does so now.

        Raises:
            BlockingIOError: Another process does so now, and this is not to wait.
        """
        try:
            lock = self.launch.file.with_suffix(".control").open("rb")
        except OSError:
            raise ServerError(f"the server at {self._place} has ended") from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
            yield

    @property
    def _place(self) -> str:
        return f"{self.launch.http_host}:{self.launch.http}"

    def _change(self, model: str, change: str, timeout_s: float) -> None:
        path = f"repository/models/{quote(model, safe='')}/{change}"
        status, answer = self._ask("POST", path, {}, timeout_s)
        if status != http.client.OK:
            raise LoadError(f"model {model!r} cannot be {change}ed: {_said(answer)}")

    def _ask(
        self,
        method: str,
        path: str,
        document: Mapping[str, Any] | None = None,
        timeout_s: float = _ANSWER_TIMEOUT_S,
    ) -> tuple[int, Any]:
        """The status and the JSON of an answer; the JSON is None if there is none."""
        connection = http.client.HTTPConnection(
            self.launch.http_host.strip("[]"), self.launch.http, timeout=timeout_s
        )
        headers = {KEY_NAME: self.launch.key, "Connection": "close"}
        body = None if document is None else json.dumps(document).encode()
        try:
            connection.request(method, f"/v2/{path}", body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(
                f"the server at {self._place} does not answer: {error or type(error).__name__}"
            ) from None
        finally:
            connection.close()
        try:
            return answer.status, json.loads(content)
        except ValueError:
            return answer.status, None


def _said(answer: object) -> str:
    """Triton's own text of an error."""
    return str(answer["error"]) if isinstance(answer, dict) and "error" in answer else str(answer)
