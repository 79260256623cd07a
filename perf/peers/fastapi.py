"""FastAPI: a plain function in its thread pool, as its documentation advises for work that blocks."""

from __future__ import annotations

import sys
from typing import Annotated

import uvicorn
from fastapi import Body, FastAPI

from perf.peers.network import Eager, prepare, top5


def application() -> FastAPI:
    """The service."""
    network = Eager()
    app = FastAPI()

    @app.post("/predict")
    def predict(file: Annotated[bytes, Body(media_type="image/jpeg")]) -> list[int]:
        return top5(network(prepare(file)[None])[0])

    return app


if __name__ == "__main__":
    uvicorn.run(application(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
