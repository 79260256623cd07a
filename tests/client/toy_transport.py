"""A transport from outside: a server in this process, which every address reaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from seresnext101_triton.client.address import Address
from seresnext101_triton.client.contract import OUTPUT_KIND_PARAMETER, Preprocessing
from seresnext101_triton.client.protocols import Meaning, Protocol
from seresnext101_triton.client.transport import Inference, Inferred, Transport, TransportOptions

PROTOCOL = Protocol(
    name="toy",
    title="Toy",
    schemes={"toy": False, "toys": True},
    port=7000,
    greeting=b"hello",
    answers_greeting=lambda answer: answer == b"hello",
    alpn="toy",
    meaning_of=lambda status, _message: Meaning.OVERLOADED if status == "BUSY" else Meaning.REFUSED,
)


def connect(address: Address, options: TransportOptions, *, blocking: bool) -> Transport:
    return Toy(address, options)


class Toy(Transport):
    triton = None

    async def is_live(self) -> bool:
        return True

    async def is_ready(self, timeout_s: float | None = None) -> bool:
        return True

    async def is_model_ready(self, model: str, timeout_s: float | None = None) -> bool:
        return True

    async def index(self) -> list[Mapping[str, str]]:
        return [{"name": "m", "version": "1", "state": "READY", "reason": ""}]

    async def server(self) -> Mapping[str, Any]:
        raise InferenceServerException("Exhausted", status="BUSY")

    async def versions(self, model: str, version: str) -> list[str]:
        return ["1"]

    async def config(self, model: str, version: str) -> pb.ModelConfig:
        config = pb.ModelConfig(platform="toy", max_batch_size=4)
        config.input.add(name="i", data_type=pb.TYPE_FP32, dims=[3, 8, 8])
        config.output.add(name="o", data_type=pb.TYPE_FP32, dims=[2])
        for name, value in (
            Preprocessing(8, 8).to_parameters() | {OUTPUT_KIND_PARAMETER: "probabilities"}
        ).items():
            config.parameters[name].string_value = value
        return config

    async def statistics(self, model: str, version: str) -> list[service_pb2.ModelStatistics]:
        return []

    async def infer(self, inference: Inference) -> Inferred:
        rows = [[b"0.75:1:dog", b"0.25:0:cat"]] * len(inference.batch)
        return Inferred(np.array(rows, np.object_))

    async def _send_inference(self, inference: Inference, tensor: Any, output: Any) -> Any:
        raise NotImplementedError

    async def _register(self, name: str, key: str, size: int) -> None: ...

    async def _unregister(self, name: str) -> None: ...

    async def _close(self) -> None: ...
