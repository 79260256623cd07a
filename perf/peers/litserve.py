"""LitServe with its dynamic batching, up to 8 images within 10 ms.

An image travels in JSON, as LitServe's documentation shows it.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

import litserve
import numpy as np

from seresnext101_triton.perf.eager import top5
from seresnext101_triton.perf.peers import MAX_BATCH
from seresnext101_triton.perf.peers.network import network


class Service(litserve.LitAPI):  # type: ignore[misc]
    """Decodes the images, runs the network on a batch, and encodes the answers."""

    served: str

    def setup(self, device: str) -> None:  # noqa: ARG002  LitServe passes it by name
        self._network = network(self.served, concurrent=False)

    def decode_request(self, request: dict[str, str]) -> np.ndarray:
        return self._network.prepare(base64.b64decode(request["image"]))

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self._network.run(x)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> Any:
        return top5(output)


if __name__ == "__main__":
    port, _, _, served = sys.argv[1:]
    service = Service(max_batch_size=MAX_BATCH, batch_timeout=0.01)
    service.served = served
    server = litserve.LitServer(service, accelerator="cpu")
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")
