"""PyTriton: Triton around a Python function, with its dynamic batching. Its clients prepare the pictures."""

from __future__ import annotations

import sys

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from perf.peers.network import MAX_BATCH, Eager

LOCALHOST = "127.0.0.1"


def main(http: int, grpc: int, metrics: int) -> None:
    """Serve at these ports until ended."""
    network = Eager()

    @batch  # type: ignore[untyped-decorator]
    def infer(image: np.ndarray) -> dict[str, np.ndarray]:
        return {"probabilities": network(image)}

    ports = TritonConfig(http_port=http, grpc_port=grpc, metrics_port=metrics, http_address=LOCALHOST, grpc_address=LOCALHOST)
    with Triton(config=ports) as triton:
        triton.bind(
            "network",
            infer,
            inputs=[Tensor(name="image", dtype=np.float32, shape=(3, 224, 224))],
            outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=MAX_BATCH, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
