"""The same repository in NVIDIA's own image, with its C++ backends."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from server import ENGINE_CACHE, TRITON_RELEASE
from server.launcher import LOCALHOST, Ports, served_models
from server.releases import release

_VOLUME = "seresnext101-engines"


def docker_command(
    repository: Path, ports: Ports, address: str = LOCALHOST, target: str = TRITON_RELEASE, only: Sequence[str] = ()
) -> list[str]:
    """The `docker run` line that serves a repository's exported models, read-only, on this machine's address.

    Raises:
        RepositoryError: Nothing has been exported.
        ReleaseError: The release is not known.
    """
    mounts = [f"--volume={folder.resolve()}:/models/{folder.name}:ro" for folder in served_models(repository, only)]
    gpus = ["--gpus=all"] if shutil.which("nvidia-smi") else []
    published = zip((ports.grpc, ports.http, ports.metrics), (8001, 8000, 8002), strict=True)
    return [
        "docker", "run", "--rm", "--shm-size=1g", *gpus,
        *(f"--publish={address}:{outside}:{inside}" for outside, inside in published),
        *mounts,
        *([f"--volume={_VOLUME}:{ENGINE_CACHE}"] if gpus else []),
        release(target).image,
        "tritonserver", "--model-repository=/models", "--model-control-mode=none", "--strict-readiness=true",
    ]  # fmt: skip
