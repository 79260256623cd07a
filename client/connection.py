"""A connection to Triton: what is served, and inference on prepared batches."""

from __future__ import annotations

import math
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from tritonclient.grpc import model_config_pb2 as pb

from seresnext101_triton.client.counters import ModelCounters, read_counters
from seresnext101_triton.client.errors import (
    AccessDenied,
    ClientError,
    ContractError,
    ModelUnavailable,
    RequestRejected,
    ServerUnreachable,
    UsageError,
)
from seresnext101_triton.client.failover import About, Servers
from seresnext101_triton.client.inference import inference_of, results_of
from seresnext101_triton.client.launches import Launch
from seresnext101_triton.client.served import (
    ModelState,
    ServedModel,
    read_served_model,
    version_order,
)
from seresnext101_triton.client.transport import Transport, TransportOptions

Result = TypeVar("Result")

_POLL_S = 0.2
# Requests until a version answers of which a server says how it is used: one that has just answered
# may be gone.
_MOST_FOLLOWS = 4
# A server that is waited for has at least this time to answer, even if less time is left.
_SHORTEST_QUESTION_S = 1.0


class AsyncConnection:
    """A connection to one or several servers, for asyncio.

    Use it in one event loop, as an async context manager, or await `close`.

    Every method raises `ServerUnreachable` if nothing answers and another `ClientError` if the
    server refuses. A request that no server answered is sent again, which does no harm, because
    requests change nothing. A request that a server refused, or took and did not answer in time,
    is not.

    Args:
        url: `host:port`, several of them, or one text with commas between them. The scheme
            `grpc://`, `grpcs://`, `http://` or `https://` decides the protocol and TLS.
        transport_options: How to communicate with the servers.

    Attributes:
        url: The addresses, for messages.

    Raises:
        UsageError: A URL is invalid, contradicts the options or another URL, or the protocol
            cannot send a header of the options.
    """

    _blocking = False

    def __init__(
        self,
        url: str | Sequence[str],
        transport_options: TransportOptions = TransportOptions(),
    ) -> None:
        self._servers = Servers(url, transport_options, blocking=self._blocking)
        self._answered: dict[tuple[str, str], ServedModel] = {}  # other versions, by model
        self.url = self._servers.url

    async def __aenter__(self) -> AsyncConnection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection."""
        await self._servers.close()

    async def is_live(self) -> bool:
        """Whether a Triton server answers."""
        try:
            return await self._servers.ask_once(lambda transport: transport.is_live())
        except ClientError:
            return False

    async def is_ready(self) -> bool:
        """Whether the server says that all its models are ready."""
        return await self._servers.ask(lambda transport: transport.is_ready())

    async def wait_until_ready(self, model: str = "", timeout_s: float = 60.0) -> None:
        """Return as soon as the server, or one of its models, is ready.

        Args:
            model: Name of the model; empty for all models.
            timeout_s: How long to wait, in seconds.

        Raises:
            ServerUnreachable: No server has answered within the time.
            ModelUnavailable: A server has answered, and says why it is not ready.
        """
        if not 0 <= timeout_s < math.inf:
            raise UsageError(
                f"the time to wait must be a number of seconds from 0 on, not {timeout_s}"
            )
        deadline = time.monotonic() + timeout_s
        while True:
            error: ServerUnreachable | None = None
            try:
                if await self._is_ready_within(model, deadline - time.monotonic()):
                    return
            except ServerUnreachable as unanswered:
                error = unanswered
            if time.monotonic() > deadline:
                raise await (self._servers.with_hint(error) if error else self._not_ready(model))
            await self._servers.sleep(_POLL_S)

    async def _is_ready_within(self, model: str, seconds: float) -> bool:
        timeout_s = min(self._servers.options.timeout_s, max(seconds, _SHORTEST_QUESTION_S))

        async def question(transport: Transport) -> bool:
            if model:
                return await transport.is_model_ready(model, timeout_s)
            return await transport.is_ready(timeout_s)

        return await self._servers.ask_once(question)

    async def _not_ready(self, model: str) -> ClientError:
        """The error with what a server says of its models that are not ready."""
        try:
            states = [state for state in await self.models() if model in ("", state.name)]
        except AccessDenied:
            purpose = f" to answer as model {model!r}" if model else ""
            return ModelUnavailable(
                f"{self.url} is not ready{purpose}, and tells only those with its key why"
            )
        except ServerUnreachable as error:
            return error
        reasons = [
            f"{state.name} version {state.version}: {state.state or 'not loaded'} {state.reason}"
            for state in states
            if state.state != "READY"
        ]
        why = "; ".join(map(str.strip, reasons)) or f"it has no model {model!r}"
        return ModelUnavailable(f"{self.url} is not ready: {why}")

    def launches(self) -> list[Launch]:
        """What this user's launchers (`python -m server`) tell of those servers that they run."""
        return self._servers.launches()

    async def server(self) -> tuple[str, list[str]]:
        """The server's version and its extensions."""
        facts = await self._servers.ask(lambda transport: transport.server())
        return str(facts["version"]), list(facts.get("extensions", []))

    async def models(self) -> list[ModelState]:
        """The server's repository index, sorted by name and version.

        Raises:
            AccessDenied: The server shows it only to clients with a key, as Triton does with
                `--grpc-restricted-protocol=model-repository`.
        """
        index = await self._servers.ask(lambda transport: transport.index())
        states = [ModelState(**model) for model in index]
        return sorted(states, key=lambda model: (model.name, version_order(model.version)))

    async def ready_models(self) -> list[str]:
        """Names of the models that answer, each once."""
        return sorted({model.name for model in await self.models() if model.state == "READY"})

    async def config(self, model: str, version: str = "") -> pb.ModelConfig:
        """A model's config as the server has it.

        Raises:
            ModelUnavailable: The server does not serve the model.
        """
        return await self._servers.ask(
            lambda transport: transport.config(model, version), About(model, version)
        )

    async def counters(self, model: str = "", version: str = "") -> list[ModelCounters]:
        """What the server has counted of each version of a model since it was loaded.

        Args:
            model: Name of the model; empty for all models.
            version: A version; empty for all versions of the model.

        Raises:
            RequestRejected: The server does not have the model.
            AccessDenied: The server shows its statistics only to clients with a key.
        """
        statistics = await self._servers.ask(
            lambda transport: transport.statistics(model, version), About(model, version)
        )
        return [read_counters(each) for each in statistics]

    async def describe(self, model: str, version: str = "") -> ServedModel:
        """Read from the server how a model is used.

        Args:
            model: Name of the model.
            version: A version; empty leaves it to the server.

        Raises:
            ModelUnavailable: The server does not serve the model.
            ContractError: The model does not follow this toolkit's contract.
        """
        if not model:
            raise UsageError("name a model: the name is empty")
        versions = await self._servers.ask(
            lambda transport: transport.versions(model, version), About(model, version)
        )
        config = await self.config(model, version)
        try:
            return read_served_model(model, [version] if version and versions else versions, config)
        except ContractError as error:
            raise ContractError(
                f"model {model!r} at {self.url} cannot be used by this client: {error}. "
                "Publish it with `python -m export`, which writes the contract into config.pbtxt"
            ) from None

    async def infer(self, model: ServedModel, batch: np.ndarray) -> np.ndarray:
        """The model's own output.

        Args:
            model: The model as `describe` returned it.
            batch: `model.dtype` [N, *`model.preprocessing.shape`], N at most `model.max_batch`.

        Returns:
            float32 [N, classes]: probabilities or logits, as `model.output_kind` says.
        """
        return await self.infer_top(model, batch, 0)

    async def infer_top(self, model: ServedModel, batch: np.ndarray, count: int) -> np.ndarray:
        """The highest outputs of each image, by Triton's classification extension.

        Args:
            model: The model as `describe` returned it.
            batch: As for `infer`.
            count: How many outputs, 1 to `model.classes`.

        Returns:
            Bytes [N, count], `value:index:label`, highest value first.
        """
        inference = inference_of(model, batch, count)
        about = About(model.name, model.version)
        inferred = await self._servers.ask(lambda transport: transport.infer(inference), about)
        return results_of(model, inference, inferred.output, count)

    async def infer_following(
        self, model: ServedModel, batch: np.ndarray, count: int
    ) -> tuple[ServedModel, np.ndarray]:
        """As `infer_top`, by the version that the server chooses.

        After a promotion, it is another one than the server has described. In a fleet, it may
        differ from request to request.

        Args:
            model: The model as `describe` or this method returned it.
            batch: As for `infer`.
            count: As for `infer_top`; 0 means the model's own output.

        Returns:
            The model with the version that answered, and its answer.

        Raises:
            ModelUnavailable: No version answers, or the new one is used in another way.
        """
        inference = inference_of(replace(model, version=""), batch, count)
        about = About(model.name, is_awaited=False)
        for number in range(1, _MOST_FOLLOWS + 1):
            try:
                inferred = await self._servers.ask(lambda each: each.infer(inference), about)
            except RequestRejected as error:
                if not error.is_overload:  # perhaps it would have been right for another version
                    _check_use(model, await self.describe(model.name))
                raise
            except ModelUnavailable:
                await self.describe(model.name)  # waits for a model that is loaded again
                if number == _MOST_FOLLOWS:
                    raise
            else:
                used = await self._version(model, inferred.version)
                if used is not None:
                    _check_use(model, used)
                    return used, results_of(used, inference, inferred.output, count)
            await self._servers.sleep(_POLL_S)
        return model, await self.infer_top(model, batch, count)

    async def _version(self, model: ServedModel, version: str) -> ServedModel | None:
        """How a version is used that has answered. None if no server has it any more."""
        if version in ("", model.version):
            return model
        key = model.name, version
        if key not in self._answered:
            try:
                self._answered[key] = await self.describe(*key)
            except (ModelUnavailable, ServerUnreachable):
                return None
        return self._answered[key]


class Connection:
    """A connection to one or several servers. Any thread may use it.

    Use it as a context manager, or call `close`. The methods, their arguments and their errors are
    those of `AsyncConnection`; they block.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        transport_options: TransportOptions = TransportOptions(),
    ) -> None:
        self._connection = _BlockingConnection(url, transport_options)
        self.url = self._connection.url

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        _finished(self._connection.close())

    def is_live(self) -> bool:
        """See `AsyncConnection.is_live`."""
        return _finished(self._connection.is_live())

    def is_ready(self) -> bool:
        """See `AsyncConnection.is_ready`."""
        return _finished(self._connection.is_ready())

    def wait_until_ready(self, model: str = "", timeout_s: float = 60.0) -> None:
        """See `AsyncConnection.wait_until_ready`."""
        _finished(self._connection.wait_until_ready(model, timeout_s))

    def launches(self) -> list[Launch]:
        """See `AsyncConnection.launches`."""
        return self._connection.launches()

    def server(self) -> tuple[str, list[str]]:
        """See `AsyncConnection.server`."""
        return _finished(self._connection.server())

    def models(self) -> list[ModelState]:
        """See `AsyncConnection.models`."""
        return _finished(self._connection.models())

    def ready_models(self) -> list[str]:
        """See `AsyncConnection.ready_models`."""
        return _finished(self._connection.ready_models())

    def config(self, model: str, version: str = "") -> pb.ModelConfig:
        """See `AsyncConnection.config`."""
        return _finished(self._connection.config(model, version))

    def counters(self, model: str = "", version: str = "") -> list[ModelCounters]:
        """See `AsyncConnection.counters`."""
        return _finished(self._connection.counters(model, version))

    def describe(self, model: str, version: str = "") -> ServedModel:
        """See `AsyncConnection.describe`."""
        return _finished(self._connection.describe(model, version))

    def infer(self, model: ServedModel, batch: np.ndarray) -> np.ndarray:
        """See `AsyncConnection.infer`."""
        return _finished(self._connection.infer(model, batch))

    def infer_top(self, model: ServedModel, batch: np.ndarray, count: int) -> np.ndarray:
        """See `AsyncConnection.infer_top`."""
        return _finished(self._connection.infer_top(model, batch, count))

    def infer_following(
        self, model: ServedModel, batch: np.ndarray, count: int
    ) -> tuple[ServedModel, np.ndarray]:
        """See `AsyncConnection.infer_following`."""
        return _finished(self._connection.infer_following(model, batch, count))


class _BlockingConnection(AsyncConnection):
    """A connection whose coroutines never suspend."""

    _blocking = True


def _check_use(model: ServedModel, now: ServedModel) -> None:
    """Refuse a version that takes or answers otherwise than the one that was described.

    Raises:
        ModelUnavailable: It does.
    """
    if not now.is_used_like(model):
        raise ModelUnavailable(
            f"version {model.version} of model {model.name!r} was replaced by version "
            f"{now.version}, which takes or answers otherwise: connect again"
        ) from None


def _finished(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    raise AssertionError("a blocking coroutine has suspended")
