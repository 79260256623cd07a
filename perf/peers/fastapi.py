"""FastAPI: a plain function in its thread pool, as its documentation advises for blocking work."""

from __future__ import annotations

import sys
from typing import Annotated

import uvicorn
from fastapi import Body, FastAPI

from seresnext101_triton.perf.eager import top5
from seresnext101_triton.perf.peers.network import network


def application(served: str) -> FastAPI:
    """The web application."""
    serves = network(served, concurrent=True)
    app = FastAPI()

    @app.post("/predict")
    def predict(file: Annotated[bytes, Body(media_type="image/jpeg")]) -> list[int]:
        return top5(serves.run(serves.prepare(file)[None])[0])

    return app


if __name__ == "__main__":
    port, _, _, served = sys.argv[1:]
    uvicorn.run(application(served), host="127.0.0.1", port=int(port), log_level="warning")
