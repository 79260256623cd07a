"""One gRPC connection to a Triton server: what it serves, and raw inference with errors a person understands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from client.decoding import OUTPUT_KIND_PARAMETER, SEEDED, WEIGHTS_PARAMETER, OutputKind
from client.errors import ClientError, ContractError, ModelUnavailable, RequestRejected, ServerUnreachable
from client.preprocessing import Preprocessing

REQUEST_TIMEOUT_S = 60.0
# Triton sheds load with UNAVAILABLE, the very status of an unreachable server; only the text tells them apart.
_SHED_LOAD = ("Exceeds maximum queue size", "Request timeout expired")
_LARGE_BLOCK = 31 << 20  # below DEFAULT_MMAP_THRESHOLD_MAX, 32 MiB, above which glibc learns nothing
_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_receive_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
    # A server that has just started is noticed at once, not after gRPC's backoff of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


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
        classes: Length of the output vector.
        max_batch: Largest number of images in one request.
        untrained: The weights are seeded: the labels mean nothing.
    """

    name: str
    version: str
    input: str
    output: str
    classes: int
    max_batch: int
    preprocessing: Preprocessing
    output_kind: OutputKind
    untrained: bool


class Connection:
    """A gRPC channel to `url` (`host:port`). Use it as a context manager, or call `close`.

    Every method raises `ServerUnreachable` when nothing answers and `ClientError` for what the server refuses.
    """

    def __init__(self, url: str, *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self.url = url
        self._timeout_s = timeout_s
        _keep_freed_memory()
        with self._translated():
            self._client = triton.InferenceServerClient(url, channel_args=[*_CHANNEL_OPTIONS, *_proxy_options(url)])

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel."""
        self._client.close()

    def is_live(self) -> bool:
        """Whether a Triton server answers at all."""
        try:
            return bool(self._client.is_server_live(client_timeout=self._timeout_s))
        except InferenceServerException:
            return False

    def is_ready(self) -> bool:
        """Whether the server says that all its models are ready."""
        with self._translated():
            return bool(self._client.is_server_ready(client_timeout=self._timeout_s))

    def models(self) -> list[ModelState]:
        """The server's repository index, by name and version."""
        with self._translated():
            index = self._client.get_model_repository_index(client_timeout=self._timeout_s)
        states = [ModelState(model.name, model.version, model.state, model.reason) for model in index.models]
        return sorted(states, key=lambda model: (model.name, int(model.version or 0)))

    def ready_models(self) -> list[str]:
        """Names of the models that answer, each once."""
        return sorted({model.name for model in self.models() if model.state == "READY"})

    def describe(self, model: str, version: str = "") -> ServedModel:
        """Read from the server how a model is to be used.

        Raises:
            ModelUnavailable: It is not served.
            ContractError: It is served, but not by this toolkit's contract.
        """
        with self._translated(model, version):
            metadata = self._client.get_model_metadata(model, version, client_timeout=self._timeout_s)
            config = self._client.get_model_config(model, version, client_timeout=self._timeout_s).config
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        try:
            if len(config.input) != 1 or len(config.output) != 1:
                raise ContractError(f"it has {len(config.input)} inputs and {len(config.output)} outputs, not one each")
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
            version=version or max(metadata.versions, key=int),
            input=config.input[0].name,
            output=config.output[0].name,
            classes=int(config.output[0].dims[-1]),
            max_batch=config.max_batch_size,
            preprocessing=preprocessing,
            output_kind=OutputKind(kind),
            untrained=parameters.get(WEIGHTS_PARAMETER) == SEEDED,
        )

    def infer(self, model: ServedModel, batch: np.ndarray) -> np.ndarray:
        """The model's own output.

        Args:
            model: As `describe` returned it.
            batch: float32 [N, 3, crop, crop], N at most `model.max_batch`.

        Returns:
            float32 [N, classes]: probabilities or logits, as `model.output_kind` says.
        """
        return self._infer(model, batch, triton.InferRequestedOutput(model.output))

    def infer_top(self, model: ServedModel, batch: np.ndarray, count: int) -> np.ndarray:
        """The `count` highest outputs of each sample by Triton's classification extension, bytes [N, count]."""
        return self._infer(model, batch, triton.InferRequestedOutput(model.output, class_count=count))

    def _infer(self, model: ServedModel, batch: np.ndarray, output: Any) -> np.ndarray:
        tensor = triton.InferInput(model.input, list(batch.shape), "FP32")
        with self._translated(model.name, model.version):
            tensor.set_data_from_numpy(batch)
            result = self._client.infer(model.name, [tensor], model.version, outputs=[output], client_timeout=self._timeout_s)
        answer = result.as_numpy(model.output)
        if answer is None:
            raise ContractError(f"model {model.name!r} answered without its output {model.output!r}")
        return answer

    @contextmanager
    def _translated(self, model: str = "", version: str = "") -> Iterator[None]:
        """Turn tritonclient's one exception into ours."""
        try:
            yield
        except InferenceServerException as error:
            raise self._explain(error, model, version) from None

    def _explain(self, error: InferenceServerException, model: str, version: str) -> ClientError:
        status = str(error.status() or "").removeprefix("StatusCode.")
        message = error.message().removeprefix("[request id: <id_unknown>] ")
        if status == "NOT_FOUND" or (status == "UNAVAILABLE" and model and "is not ready" in message):
            named = f"model {model!r}" + (f" version {version}" if version else "")
            return ModelUnavailable(f"{self.url} does not serve {named}: {message}. {self._what_is_served()}")
        if any(words in message for words in _SHED_LOAD):
            return RequestRejected(f"{self.url} refused the request: {message}. It is overloaded: try again later")
        if status == "UNAVAILABLE":
            return ServerUnreachable(
                f"no Triton server answers at {self.url}. Start one with `python -m server`, "
                "or name another with --url HOST:PORT (the gRPC port, 8001 by default)"
            )
        if status == "DEADLINE_EXCEEDED":
            return ServerUnreachable(f"{self.url} did not answer within {self._timeout_s:.0f} s")
        return RequestRejected(f"{self.url} refused the request: {message}")

    def _what_is_served(self) -> str:
        try:
            names = self.ready_models()
        except ClientError:
            return "Ask its operator which models it serves"
        return f"It serves: {', '.join(names)}" if names else "It serves no model at all"


def _keep_freed_memory() -> None:
    """Have glibc keep what a request frees for the next one.

    A request copies its tensor four times, and glibc would return each copy to the kernel, which clears the pages anew for the next: up to
    2 ms a request. Once a process has freed a large block, the thresholds for that rise to the block's size and twice it (mallopt(3),
    "dynamic mmap threshold"). The block is never touched, so it costs no memory.
    """
    bytes(_LARGE_BLOCK)


def _proxy_options(url: str) -> list[tuple[str, int]]:
    """A proxy in the environment is for other machines; gRPC would ask it for this one as well."""
    host = url.rpartition(":")[0].strip("[]")
    return [("grpc.enable_http_proxy", 0)] if host in ("localhost", "::1") or host.startswith("127.") else []
