"""LitServe with its dynamic batching, up to eight pictures and 10 ms; a picture comes in JSON, as its documentation has it."""

from __future__ import annotations

import base64
import sys
from typing import Any

import litserve
import numpy as np

from perf.peers.network import MAX_BATCH, Eager, prepare, top5


class Service(litserve.LitAPI):  # type: ignore[misc]
    """Decodes, batches, answers."""

    def setup(self, device: str) -> None:
        self._network = Eager()

    def decode_request(self, request: dict[str, str]) -> np.ndarray:
        return prepare(base64.b64decode(request["image"]))

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self._network(x)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> Any:
        return top5(output)


if __name__ == "__main__":
    server = litserve.LitServer(Service(max_batch_size=MAX_BATCH, batch_timeout=0.01), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
