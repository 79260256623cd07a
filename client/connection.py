"""A connection to Triton: what is served, and raw inference with errors a person understands."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import InferenceServerException

from client.decoding import OUTPUT_KIND_PARAMETER, SEEDED, WEIGHTS_PARAMETER, OutputKind
from client.errors import ClientError, ContractError, DeadlineExceeded, ModelUnavailable, RequestRejected, ServerUnreachable
from client.preprocessing import Preprocessing
from client.transport import Link, Transport, connect

Answer = TypeVar("Answer")

# Triton sheds load with UNAVAILABLE, the very status of an unreachable server; only the text tells them apart.
_SHED_LOAD = ("Exceeds maximum queue size", "Request timeout expired")
_FIRST_BACKOFF_S, _LARGEST_BACKOFF_S = 0.1, 5.0
_POLL_S = 0.2
_LARGE_BLOCK = 31 << 20  # below DEFAULT_MMAP_THRESHOLD_MAX, 32 MiB, above which glibc learns nothing
_INPUT_TYPES: dict[int, np.dtype] = {
    pb.TYPE_FP32: np.dtype(np.float32),
    pb.TYPE_FP16: np.dtype(np.float16),
    pb.TYPE_UINT8: np.dtype(np.uint8),
}


@dataclass(frozen=True)
class ModelState:
    """One version of one model in the server's repository index.

    Attributes:
        state: `READY`, `LOADING`, `UNAVAILABLE`, or empty where the server has not tried to load it.
        reason: The server's own words for a state other than READY.
    """

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True)
class ServedModel:
    """What a client must know of a model to use it, all of it told by the server.

    Attributes:
        version: The version that answers.
        dtype: Of the input: float32, float16, or uint8 for a model that normalises by itself.
        classes: Length of the output vector.
        max_batch: Largest number of images in one request; 0 where requests are not batched.
        instances: How many requests it computes at the same time.
        untrained: The weights are seeded: the labels mean nothing.
    """

    name: str
    version: str
    input: str
    dtype: np.dtype
    output: str
    classes: int
    max_batch: int
    instances: int
    preprocessing: Preprocessing
    output_kind: OutputKind
    untrained: bool


class Connection:
    """A connection to `url`. Use it as a context manager, or call `close`. Any thread may use it.

    Every method raises `ServerUnreachable` when nothing answers and `ClientError` for what the server refuses. A request that no server
    answered is sent again, to the next URL and after a growing, random pause; classifying twice does no harm. One that was refused is not.

    Args:
        url: `host:port`, or several of them, or one text with commas between them.
        link: How the servers are spoken to.

    Attributes:
        url: The URLs, for messages.
    """

    def __init__(self, url: str | Sequence[str], link: Link = Link()) -> None:  # noqa: B008  (it is frozen)
        urls = [part.strip() for part in (url.split(",") if isinstance(url, str) else url) if part.strip()]
        if not urls:
            raise ClientError("no URL: name a server as HOST:PORT")
        self.url = ",".join(urls)
        self._link = link
        _keep_freed_memory()
        self._servers: list[tuple[str, Transport]] = []
        for each in urls:
            address = each.removeprefix("http://").removeprefix("https://").removeprefix("grpc://").rstrip("/")
            try:
                self._servers.append((address, connect(address, link)))
            except (InferenceServerException, OSError, ValueError) as error:
                raise ServerUnreachable(f"{each} is not the address of a server: {error}") from None
        self._current = 0

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        for _, transport in self._servers:
            transport.close()

    def is_live(self) -> bool:
        """Whether a Triton server answers at all."""
        try:
            return self._once(lambda transport: transport.is_live())
        except ClientError:
            return False

    def is_ready(self) -> bool:
        """Whether the server says that all its models are ready."""
        return self._ask(lambda transport: transport.is_ready())

    def wait_until_ready(self, model: str = "", timeout_s: float = 60.0) -> None:
        """Return once the server, or one of its models, is ready.

        Raises:
            ServerUnreachable: No server has answered within the time.
            ModelUnavailable: One has, and says why it is not ready.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if model in self.ready_models() if model else self.is_ready():
                    return
                reasons = [
                    f"{state.name} version {state.version}: {state.state or 'not loaded'} {state.reason}".strip()
                    for state in self.models()
                    if state.state != "READY" and model in ("", state.name)
                ]
                error: ClientError = ModelUnavailable(f"{self.url} is not ready: {'; '.join(reasons) or f'it has no model {model!r}'}")
            except ServerUnreachable as unreachable:
                error = unreachable
            if time.monotonic() > deadline:
                raise error
            time.sleep(_POLL_S)

    def server(self) -> tuple[str, list[str]]:
        """The server's version and its extensions."""
        facts = self._ask(lambda transport: transport.server())
        return str(facts["version"]), list(facts.get("extensions", []))

    def models(self) -> list[ModelState]:
        """The server's repository index, by name and version."""
        states = [ModelState(**model) for model in self._ask(lambda transport: transport.index())]
        return sorted(states, key=lambda model: (model.name, int(model.version or 0)))

    def ready_models(self) -> list[str]:
        """Names of the models that answer, each once."""
        return sorted({model.name for model in self.models() if model.state == "READY"})

    def config(self, model: str, version: str = "") -> pb.ModelConfig:
        """A model's config as the server has it.

        Raises:
            ModelUnavailable: It is not served.
        """
        return self._ask(lambda transport: transport.config(model, version), model, version)

    def describe(self, model: str, version: str = "") -> ServedModel:
        """Read from the server how a model is to be used.

        Raises:
            ModelUnavailable: It is not served.
            ContractError: It is served, but not by this toolkit's contract.
        """
        versions = self._ask(lambda transport: transport.versions(model, version), model, version)
        config = self.config(model, version)
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        try:
            if len(config.input) != 1 or len(config.output) != 1:
                raise ContractError(f"it has {len(config.input)} inputs and {len(config.output)} outputs, not one each")
            if config.input[0].data_type not in _INPUT_TYPES:
                raise ContractError(f"its input is {pb.DataType.Name(config.input[0].data_type)}, not FP32, FP16 or UINT8")
            kind = parameters.get(OUTPUT_KIND_PARAMETER, "missing")
            if kind not in set(OutputKind):
                raise ContractError(f"its parameter {OUTPUT_KIND_PARAMETER!r} is {kind}")
            preprocessing = Preprocessing.from_parameters(parameters)
        except ContractError as error:
            raise ContractError(
                f"model {model!r} at {self.url} cannot be used by this client: {error}. "
                "Publish it with `python -m export`, which writes the contract into config.pbtxt"
            ) from None
        return ServedModel(
            name=model,
            version=version or max(versions, key=int),
            input=config.input[0].name,
            dtype=_INPUT_TYPES[config.input[0].data_type],
            output=config.output[0].name,
            classes=int(config.output[0].dims[-1]),
            max_batch=config.max_batch_size,
            instances=sum(group.count for group in config.instance_group) or 1,
            preprocessing=preprocessing,
            output_kind=OutputKind(kind),
            untrained=parameters.get(WEIGHTS_PARAMETER) == SEEDED,
        )

    def infer(self, model: ServedModel, batch: np.ndarray) -> np.ndarray:
        """The model's own output.

        Args:
            model: As `describe` returned it.
            batch: `model.dtype` [N, 3, crop, crop], N at most `model.max_batch`.

        Returns:
            float32 [N, classes]: probabilities or logits, as `model.output_kind` says.
        """
        return self.infer_top(model, batch, 0)

    def infer_top(self, model: ServedModel, batch: np.ndarray, count: int) -> np.ndarray:
        """The `count` highest outputs of each sample by Triton's classification extension, bytes [N, count]."""
        answer = self._ask(
            lambda transport: transport.infer(model.name, model.version, model.input, batch, model.output, count), model.name, model.version
        )
        if answer is None:
            raise ContractError(f"model {model.name!r} answered without its output {model.output!r}")
        # Where Triton knows of no batch axis, its classification extension gives the one image's classes without one.
        return answer[None] if answer.ndim == 1 else answer

    def _ask(self, question: Callable[[Transport], Answer], model: str = "", version: str = "") -> Answer:
        """Ask until a server answers or refuses, or the retries are used up."""
        for attempt in range(self._link.retries + 1):
            try:
                return self._once(question, model, version)
            except DeadlineExceeded:
                raise
            except ServerUnreachable:
                if attempt == self._link.retries:
                    raise
                # "Full jitter": clients that lost the same server do not come back at the same moment.
                time.sleep(random.uniform(0, min(_FIRST_BACKOFF_S * 2**attempt, _LARGEST_BACKOFF_S)))  # noqa: S311
        raise AssertionError

    def _once(self, question: Callable[[Transport], Answer], model: str = "", version: str = "") -> Answer:
        """Ask each server once, beginning with the one that answered last."""
        first = self._current
        for number in range(len(self._servers)):
            index = (first + number) % len(self._servers)
            url, transport = self._servers[index]
            try:
                answer = question(transport)
                self._current = index
                return answer
            except InferenceServerException as error:
                explained = self._explain(error, url, model, version)
            except TimeoutError:
                explained = self._too_late(url)
            except OSError as error:  # of HTTP: connections refused, cut, or never made
                explained = _nobody(url, str(error))
            if number == len(self._servers) - 1 or not isinstance(explained, ServerUnreachable):
                raise explained
        raise AssertionError

    def _explain(self, error: InferenceServerException, url: str, model: str, version: str) -> ClientError:
        """What tritonclient's one exception means; gRPC has a status, HTTP a number."""
        status = str(error.status() or "").removeprefix("StatusCode.")
        message = error.message().removeprefix("[request id: <id_unknown>] ")
        unknown = status == "NOT_FOUND" or "unknown model" in message or ("is not ready" in message and bool(model))
        if model and unknown:
            named = f"model {model!r}" + (f" version {version}" if version else "")
            return ModelUnavailable(f"{url} does not serve {named}: {message}. {self._what_is_served()}")
        if any(words in message for words in _SHED_LOAD):
            return RequestRejected(f"{url} refused the request: {message}. It is overloaded: try again later")
        if status == "UNAVAILABLE":
            return _nobody(url, message)
        if status == "DEADLINE_EXCEEDED":
            return self._too_late(url)
        return RequestRejected(f"{url} refused the request: {message}")

    def _too_late(self, url: str) -> DeadlineExceeded:
        return DeadlineExceeded(f"{url} did not answer within {self._link.timeout_s:g} s")

    def _what_is_served(self) -> str:
        try:
            names = sorted({model["name"] for model in self._once(lambda transport: transport.index()) if model["state"] == "READY"})
        except ClientError:
            return "Ask its operator which models it serves"
        return f"It serves: {', '.join(names)}" if names else "It serves no model at all"


def _nobody(url: str, reason: str) -> ServerUnreachable:
    tls = "SSL" in reason or "certificate" in reason.lower()
    hint = f" ({reason.splitlines()[0]})" if tls else ""
    return ServerUnreachable(
        f"no Triton server answers at {url}{hint}. Start one with `python -m server`, or name another with --url HOST:PORT "
        "(8001 is Triton's port for gRPC, 8000 for HTTP)"
    )


def _keep_freed_memory() -> None:
    """Have glibc keep what a request frees for the next one.

    A request copies its tensor four times, and glibc would return each copy to the kernel, which clears the pages anew for the next: up to
    2 ms a request. Once a process has freed a large block, the thresholds for that rise to the block's size and twice it (mallopt(3),
    "dynamic mmap threshold"). The block is never touched, so it costs no memory.
    """
    bytes(_LARGE_BLOCK)
