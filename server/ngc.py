"""Serves the same repository with NVIDIA's own image and its C++ backends."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from seresnext101_triton.server import ENGINE_CACHE, TRITON_RELEASE
from seresnext101_triton.server.ensembles import without_images
from seresnext101_triton.server.models import served_models
from seresnext101_triton.server.ports import LOCALHOST, Ports
from seresnext101_triton.server.releases import release

_VOLUME = "seresnext101-engines"


def docker_command(  # noqa: PLR0913  (one argument for each option)
    repository: Path,
    ports: Ports,
    address: str = LOCALHOST,
    target: str = TRITON_RELEASE,
    only: Sequence[str] = (),
    image: str = "",
    response_cache_mib: int = 0,
) -> list[str]:
    """The `docker run` line that serves the exported models of a repository.

    The models are mounted read-only.

    Args:
        repository: The model repository.
        ports: The ports of this machine.
        address: The address of this machine on which the ports are opened.
        target: The release of the image.
        only: Names of the models to serve; all models if it is empty.
        image: An image that was built from `server/Dockerfile`, which can also decode image files.
            If it is empty, it is NVIDIA's own, and models that take image files are left out.
        response_cache_mib: Size of the response cache, in MiB; 0 means that there is none.

    Raises:
        NothingToServe: Nothing has been exported.
        InstallationError: A model that was named takes image files, and `image` is empty.
        UnknownRelease: The release is not known.
    """
    folders = served_models(repository, only)
    if not image:
        folders = without_images(folders, only)
    mounts = [f"--volume={folder.resolve()}:/models/{folder.name}:ro" for folder in folders]
    gpus = ["--gpus=all"] if shutil.which("nvidia-smi") else []
    published = zip((ports.grpc, ports.http, ports.metrics), (8001, 8000, 8002), strict=True)
    return [
        "docker", "run", "--rm", "--shm-size=1g", *gpus,
        *(f"--publish={address}:{outside}:{inside}" for outside, inside in published),
        *mounts,
        *([f"--volume={_VOLUME}:{ENGINE_CACHE}"] if gpus else []),
        image or release(target).image,
        "tritonserver", "--model-repository=/models", "--model-control-mode=none",
        "--strict-readiness=true",
        *([f"--cache-config=local,size={response_cache_mib << 20}"] if response_cache_mib else []),
    ]  # fmt: skip
