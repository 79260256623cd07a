"""The server that is measured: one that we start on a repository, or one that runs already."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import tritonclient.grpc as triton
from google.protobuf import text_format
from tritonclient.utils import InferenceServerException

from client.connection import Connection
from client.errors import ServerUnreachable
from perf.errors import PerfError
from server.launcher import Ports, Server

_MEBIBYTE = 2**20


@dataclass(frozen=True)
class Counters:
    """What a server has done for a model so far, and what that took.

    Attributes:
        images: Inferred.
        runs: Of the model; with dynamic batching fewer than requests.
        cpu_s: Of the server and its stubs; None for a server that is not ours.
        at: Of the monotonic clock.
    """

    images: int
    runs: int
    cpu_s: float | None
    at: float


class Subject:
    """A server whose models can be measured."""

    def __init__(self, url: str, http_url: str, root: psutil.Process | None) -> None:
        self.url = url
        self.http_url = http_url
        self._root = root

    def models(self) -> list[str]:
        """That are ready."""
        with Connection(self.url) as connection:
            return connection.ready_models()

    def facts(self, model: str) -> dict[str, Any]:
        """Name, version, weights and config of a model, as the server has them.

        Raises:
            ClientError: It is not served.
        """
        with Connection(self.url) as connection:
            served = connection.describe(model)
            config = connection.config(model)
        return {
            "name": served.name,
            "version": served.version,
            "platform": config.platform or config.backend,
            "weights": "seeded" if served.untrained else "trained",
            "config": text_format.MessageToString(config, as_one_line=True),
        }

    def counters(self, model: str) -> Counters:
        """As they stand now.

        Raises:
            ServerUnreachable: The server went.
        """
        try:
            with triton.InferenceServerClient(self.url) as client:
                statistics = client.get_inference_statistics(model).model_stats[0]
        except InferenceServerException as error:
            raise ServerUnreachable(f"the server at {self.url} no longer says what it did: {error.message()}. Run again to go on") from None
        return Counters(statistics.inference_count, statistics.execution_count, self._cpu_s(), time.monotonic())

    def used(self, before: Counters, after: Counters) -> dict[str, float | None]:
        """What happened in between: the mean batch that was formed, cores in use, and memory now, in MiB."""
        cores = None if before.cpu_s is None or after.cpu_s is None else (after.cpu_s - before.cpu_s) / (after.at - before.at)
        runs = after.runs - before.runs
        return {"mean_batch": (after.images - before.images) / runs if runs else None, "cores": cores, "memory_mib": self._memory_mib()}

    def memory_of(self, model: str) -> float:
        """What the processes of one model's instances hold, in MiB; shared pages count in part."""
        instance = re.compile(rf"{re.escape(model)}_\d+(_\d+)*$")  # as Triton calls it, on its stub's command line
        stubs = [each for each in self._family() if any(map(instance.match, each.cmdline()))]
        return sum(each.memory_full_info().pss for each in stubs) / _MEBIBYTE

    def _cpu_s(self) -> float | None:
        return sum(times.user + times.system for times in (each.cpu_times() for each in self._family())) if self._root else None

    def _memory_mib(self) -> float | None:
        """Proportional, since the stubs share pages with each other."""
        return sum(each.memory_full_info().pss for each in self._family()) / _MEBIBYTE if self._root else None

    def _family(self) -> list[psutil.Process]:
        assert self._root is not None
        return [self._root, *self._root.children(recursive=True)]


@contextmanager
def serving(repository: Path, models: Sequence[str], url: str = "", http_url: str = "", *, control: bool = False) -> Iterator[Subject]:
    """A server to measure.

    Args:
        repository: Whose models to serve, where there is no `url`.
        models: That will be measured; all where none is named.
        url: `host:port` of the gRPC endpoint of a server that runs already.
        http_url: Its HTTP endpoint, where that is to be measured.
        control: Whether models are to be loaded anew.

    Raises:
        ServerError: The repository cannot be served.
        PerfError: The server that runs lacks one of the models.
        ClientError: It does not answer.
    """
    if url:
        subject = Subject(url, http_url, None)
        if missing := set(models) - set(subject.models()):
            raise PerfError(f"the server at {url} does not serve {', '.join(sorted(missing))}: choose from {', '.join(subject.models())}")
        yield subject
        return
    with Server(repository, ports=Ports(0, 0, 0), only=models, control=control) as server:
        host = server.url.rpartition(":")[0]
        yield Subject(server.url, f"{host}:{server.ports.http}", psutil.Process(server.pid))
