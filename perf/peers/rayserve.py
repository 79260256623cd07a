"""Ray Serve with its dynamic batching, up to 8 images within 10 ms, on a Ray cluster of its own."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Any

import numpy as np
from starlette.requests import Request

from seresnext101_triton.client.ray_engine import cluster
from seresnext101_triton.perf.eager import top5
from seresnext101_triton.perf.peers import MAX_BATCH
from seresnext101_triton.perf.peers.network import network


def application(served: str) -> Any:
    """The application. Call it in a cluster, which sets the environment that Ray reads first."""
    from ray import serve

    class Service:
        def __init__(self) -> None:
            self._network = network(served, concurrent=False)

        async def __call__(self, request: Request) -> list[int]:
            file = await request.body()
            return await self._answer(await asyncio.to_thread(self._network.prepare, file))

        @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0.01)  # type: ignore[untyped-decorator]
        async def _answer(self, images: list[np.ndarray]) -> list[list[int]]:
            output = await asyncio.to_thread(self._network.run, np.stack(images))
            return [top5(row) for row in output]

    return serve.deployment(max_ongoing_requests=1000)(Service).bind()


if __name__ == "__main__":
    port, _, _, served = sys.argv[1:]
    os.environ.pop("RAY_ADDRESS", None)  # of a cluster of the user
    with cluster(None):
        from ray import serve

        serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
        serve.run(application(served), route_prefix="/predict")
        threading.Event().wait()
