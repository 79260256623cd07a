"""PyTriton: Triton around a Python function, with its dynamic batching.

Its clients prepare the images.
"""

from __future__ import annotations

import sys

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from seresnext101_triton.perf.peers import MAX_BATCH
from seresnext101_triton.perf.peers.network import network, preprocessing_of

LOCALHOST = "127.0.0.1"


def main(http: str, grpc: str, metrics: str, served: str) -> None:
    """Serve at these ports until the process is ended."""
    serves = network(served, concurrent=False)
    crop = preprocessing_of(served).crop

    @batch  # type: ignore[untyped-decorator]
    def infer(image: np.ndarray) -> dict[str, np.ndarray]:
        return {"probabilities": serves.run(image)}

    config = TritonConfig(
        http_port=int(http),
        grpc_port=int(grpc),
        metrics_port=int(metrics),
        http_address=LOCALHOST,
        grpc_address=LOCALHOST,
    )
    batcher = DynamicBatcher(max_queue_delay_microseconds=0)
    with Triton(config=config) as triton:
        triton.bind(
            "network",
            infer,
            inputs=[Tensor(name="image", dtype=np.float32, shape=(3, crop, crop))],
            outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=MAX_BATCH, batcher=batcher),
        )
        triton.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
