"""The server that is measured: one that perf starts on a repository, or one that already runs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import tritonclient.grpc as triton
from google.protobuf import text_format
from tritonclient.utils import InferenceServerException

from seresnext101_triton.client.connection import Connection
from seresnext101_triton.client.errors import ServerUnreachable
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.records import ModelDescription, ServerUsage
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.ports import Ports

_MEBIBYTE = 2**20


@dataclass(frozen=True)
class Counters:
    """The counters of a server for one model.

    Attributes:
        images: The number of images that the model computed.
        runs: The number of its runs. With dynamic batching, there are fewer runs than requests.
        answered: The number of requests that were answered.
        cached: The number of those that were answered from the response cache.
        cpu_s: The processor time of the server and its stubs, in seconds. None for a server that
            perf did not start.
        at: The time of the monotonic clock, in seconds.
    """

    images: int
    runs: int
    answered: int
    cached: int
    cpu_s: float | None
    at: float


class MeasuredServer:
    """A running server whose models can be measured.

    Args:
        url: `host:port` of its gRPC endpoint.
        http_url: `host:port` of its HTTP endpoint; may be empty.
        process: Its process. None for a server that perf did not start.
    """

    def __init__(self, url: str, http_url: str, process: psutil.Process | None) -> None:
        self.url = url
        self.http_url = http_url
        self._process = process

    def models(self) -> list[str]:
        """The names of the models that are ready."""
        with Connection(self.url) as connection:
            return connection.ready_models()

    def describe(self, model: str) -> ModelDescription:
        """Ask the server for the version, the weights and the config of a model.

        Raises:
            ClientError: The server does not serve it.
        """
        with Connection(self.url) as connection:
            served = connection.describe(model)
            config = connection.config(model)
        return ModelDescription(
            name=served.name,
            version=served.version,
            platform=config.platform or config.backend,
            weights="seeded" if served.untrained else "trained",
            config=text_format.MessageToString(config, as_one_line=True),
        )

    def counters(self, model: str) -> Counters:
        """Read the counters of a model.

        Raises:
            ServerUnreachable: The server has ended.
        """
        try:
            with triton.InferenceServerClient(self.url) as client:
                statistics = client.get_inference_statistics(model).model_stats[0]
        except InferenceServerException as error:
            raise ServerUnreachable(
                f"the server at {self.url} no longer says what it did: {error.message()}. "
                "Run again to go on"
            ) from None
        return Counters(
            statistics.inference_count,
            statistics.execution_count,
            statistics.inference_stats.success.count,
            statistics.inference_stats.cache_hit.count,
            self._cpu_s(),
            time.monotonic(),
        )

    def usage(self, before: Counters, after: Counters) -> ServerUsage:
        """The mean batch and the cores in use between two readings, and the memory now."""
        cores = None
        if before.cpu_s is not None and after.cpu_s is not None:
            cores = (after.cpu_s - before.cpu_s) / (after.at - before.at)
        runs = after.runs - before.runs
        mean_batch = (after.images - before.images) / runs if runs else None
        answered = after.answered - before.answered
        cached = (after.cached - before.cached) / answered if answered else None
        return ServerUsage(mean_batch, cores, self._memory_mib(), cached)

    def memory_of(self, model: str) -> float:
        """The memory of the processes of one model's instances, in MiB.

        A page that several processes share counts in part for each of them.
        """
        # Triton writes the name of the instance on the command line of its stub.
        instance = re.compile(rf"{re.escape(model)}_\d+(_\d+)*$")
        stubs = [each for each in self.processes() if any(map(instance.match, each.cmdline()))]
        return sum(each.memory_full_info().pss for each in stubs) / _MEBIBYTE

    def _cpu_s(self) -> float | None:
        if self._process is None:
            return None
        times = [each.cpu_times() for each in self.processes()]
        return float(sum(each.user + each.system for each in times))

    def _memory_mib(self) -> float | None:
        if self._process is None:
            return None
        return float(sum(each.memory_full_info().pss for each in self.processes())) / _MEBIBYTE

    def processes(self) -> list[psutil.Process]:
        """The server's own process and then its stubs. Only of a server that perf started."""
        assert self._process is not None
        return [self._process, *self._process.children(recursive=True)]


@contextmanager
def serving(
    repository: Path,
    models: Sequence[str],
    url: str = "",
    http_url: str = "",
    *,
    allow: Sequence[str] = (),
) -> Iterator[MeasuredServer]:
    """Start a server on a repository, or use one that already runs.

    Args:
        repository: The model repository; not used if there is a `url`.
        models: The models to measure; all of them if the list is empty.
        url: `host:port` of the gRPC endpoint of a server that already runs.
        http_url: `host:port` of its HTTP endpoint, for loads over HTTP.
        allow: Protocols that are open to programs without the server's key, as for `Server`.

    Raises:
        ServerError: The repository cannot be served.
        PerfError: The server that already runs does not serve one of the models.
        ClientError: It does not answer.
    """
    if url:
        measured = MeasuredServer(url, http_url, None)
        ready = measured.models()
        if missing := set(models) - set(ready):
            raise PerfError(
                f"the server at {url} does not serve {', '.join(sorted(missing))}: "
                f"choose from {', '.join(ready)}"
            )
        yield measured
        return
    with Server(repository, ports=Ports(0, 0, 0), only=models, allow=allow) as server:
        host = server.url.rpartition(":")[0]
        process = psutil.Process(server.pid)
        yield MeasuredServer(server.url, f"{host}:{server.ports.http}", process)
