"""Arguments of tritonserver."""

from __future__ import annotations

import os
from collections.abc import Iterator

from seresnext101_triton.client.launches import Launch
from seresnext101_triton.server.access import key_arguments
from seresnext101_triton.server.errors import ServerError
from seresnext101_triton.server.process import EXIT_TIMEOUT_S


def endpoint_arguments(launch: Launch) -> Iterator[str]:
    """Where the server listens. With TLS, the endpoints without it are for this machine only."""
    grpc = f"[{launch.address}]" if ":" in launch.address else launch.address
    web = launch.http_host.strip("[]") if launch.tls else launch.address
    web = f"ipv6:{web}" if ":" in web else web  # as libevent, Triton's HTTP library, takes it
    yield f"--grpc-address={grpc}"
    yield f"--http-address={web}"
    yield f"--metrics-address={web}"
    yield f"--grpc-port={launch.grpc}"
    yield f"--http-port={launch.http}"
    yield f"--metrics-port={launch.metrics}"


def launch_arguments(launch: Launch) -> Iterator[str]:
    """What the server of a launch serves, where it listens, and who may control it."""
    yield f"--model-repository={launch.models_folder}"
    yield "--model-control-mode=explicit"
    yield "--load-model=*"
    yield from key_arguments(launch.restricted, launch.key)
    yield "--exit-on-error=false"  # the repository index then has the reason
    # Otherwise a version that could not be loaded makes the server unready for ever, although the
    # version of before answers. The launcher sees that all models are loaded.
    yield "--strict-readiness=false"
    yield f"--exit-timeout-secs={EXIT_TIMEOUT_S}"
    yield from endpoint_arguments(launch)
    yield f"--backend-config=python,shm-region-prefix-name={launch.shared_memory}"


def cache_arguments(mib: int) -> list[str]:
    """Triton's options for a response cache in its own memory.

    Raises:
        ServerError: The size is negative, or more than the memory of this machine.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    if not 0 <= mib < memory:
        raise ServerError(
            f"`response_cache` must be 0 to {memory - 1} MiB, the memory of this machine, not {mib}"
        )
    return [f"--cache-config=local,size={mib << 20}"] if mib else []
