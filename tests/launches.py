"""A launch of a server that does not run."""

from __future__ import annotations

from seresnext101_triton.client.launches import Launch

LAUNCH = Launch(
    pid=1,
    repository="r",
    address="127.0.0.1",
    grpc=1,
    http=2,
    metrics=3,
    key="k",
    restricted=(),
    workspace="w",
    shared_memory="s",
)
