"""Serves the same repository with NVIDIA's own image and its C++ backends."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.client.launches import Launch
from seresnext101_triton.client.output import say
from seresnext101_triton.client.transport import Tls
from seresnext101_triton.server import ENGINE_CACHE, TRITON_RELEASE
from seresnext101_triton.server.access import key_arguments, restricted_without, tls_arguments
from seresnext101_triton.server.arguments import cache_arguments
from seresnext101_triton.server.folders import cache_folder
from seresnext101_triton.server.models import served_models
from seresnext101_triton.server.needs import without_gpu, without_images
from seresnext101_triton.server.ports import LOCALHOST, Ports, bare_address
from seresnext101_triton.server.registry import Registration
from seresnext101_triton.server.releases import release
from seresnext101_triton.server.session import run_command
from seresnext101_triton.server.signals import EndSignals

_WITHOUT_SHARED_MEMORY = "26.04"  # the first release that refuses it unless it is allowed
# Of Triton's own object stores.
_VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION",
)  # fmt: skip
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")  # as `obstore` reads them
# What the container may do: nothing as root, and no writing but to its temporary folder.
_CONFINEMENT = (
    "--read-only",
    "--tmpfs=/tmp:size=1g,mode=1777",
    "--env=HOME=/tmp",  # CUDA and others keep caches at home
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--shm-size=1g",
)


@dataclass(frozen=True)
class Container:
    """A container with NVIDIA's image that serves the exported models of a repository.

    It runs as the caller's own user, without capabilities. The models are mounted read-only.

    Attributes:
        repository: The model repository. If it is in an object store, its mirror.
        ports: The ports of this machine.
        address: The address of this machine on which the ports are opened.
        target: The release of the image.
        only: Names of the models to serve; all models if it is empty.
        image: An image that was built from `server/Dockerfile`, which can also decode image files.
            If it is empty, it is NVIDIA's own, and models that take image files are left out.
        response_cache_mib: Size of the response cache, in MiB; 0 means that there is none.
        allow: As for `seresnext101_triton.server.launcher.Server`.
        tls: As for `seresnext101_triton.server.launcher.Server`.
        key: The key to the restricted protocols.
        url: The repository's URL, if it is in an object store: the server in the image reads it
            itself. Credentials of this environment are passed on by their names.
    """

    repository: Path
    ports: Ports
    address: str = LOCALHOST
    target: str = TRITON_RELEASE
    only: Sequence[str] = ()
    image: str = ""
    response_cache_mib: int = 0
    allow: Sequence[str] = ()
    tls: Tls | None = None
    key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    url: str = ""

    def command(self) -> list[str]:
        """The `docker run` line.

        Raises:
            NothingToServe: Nothing has been exported, or a model that was named needs a GPU.
            InstallationError: A model that was named takes image files, and `image` is empty.
            UnknownRelease: The release is not known.
            UsageError: There is a part of `tls`, and no certificate; or the image cannot read the
                URL.
        """
        folders = without_gpu(served_models(self.repository, self.only), self.only, say)
        if not self.image:
            folders = without_images(folders, self.only)
        gpus = ["--gpus=all"] if shutil.which("nvidia-smi") else []
        return [
            "docker", "run", "--rm", f"--user={os.getuid()}:{os.getgid()}", *_CONFINEMENT, *gpus,
            *_published(self.ports, bare_address(self.address), self.tls),
            *(_credentials() if self.url else _volumes(folders)),
            *(f"--volume={file.resolve()}:{inside}:ro" for file, inside in _tls_files(self.tls)),
            *([f"--volume={engine_folder()}:{ENGINE_CACHE}"] if gpus else []),
            self.image or release(self.target).image,
            "tritonserver",
            f"--model-repository={triton_url(self.url) if self.url else '/models'}",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in ([f.name for f in folders] if self.url else "*")),
            "--strict-readiness=false",
            *key_arguments(restricted_without(self.allow), self.key), *self._shared_memory(),
            *_tls_inside(self.tls), *cache_arguments(self.response_cache_mib),
        ]  # fmt: skip

    def _shared_memory(self) -> list[str]:
        """Later releases refuse the shared memory of clients without this option.

        Source: the server's commit 546a787 of April 2026.
        """
        wanted = "shared-memory" in self.allow and self.target >= _WITHOUT_SHARED_MEMORY
        return ["--allow-client-shm=true"] if wanted else []

    def run(self, signals: EndSignals) -> int:
        """Run the container until it ends, and return its exit code.

        Meanwhile, clients of the same user find the key.
        """
        command = self.command()
        if shutil.which("nvidia-smi"):
            engine_folder().mkdir(parents=True, exist_ok=True)
        registration = Registration()
        try:
            registration.write(
                Launch(
                    pid=os.getpid(),
                    repository=str(self.repository.resolve()),
                    address=bare_address(self.address),
                    **vars(self.ports),
                    key=self.key,
                    restricted=restricted_without(self.allow),
                    workspace="",
                    shared_memory="",
                    tls=self.tls is not None,
                    state="ready",
                )
            )
            return run_command(command, os.environ, signals)
        finally:
            registration.remove()


def engine_folder() -> Path:
    """The folder of this machine in which ONNX Runtime's TensorRT provider keeps its engines.

    It must exist before the container is started, since Docker would create it for root.
    """
    return cache_folder("engines").absolute()


def triton_url(url: str) -> str:
    """A repository's URL as Triton reads it; the endpoint of this environment is in it.

    Source: docs/user_guide/model_repository.md of the server.

    Raises:
        UsageError: It is of a store whose settings Triton reads from other variables.
    """
    scheme, _, place = url.partition("://")
    if scheme == "az":
        raise UsageError(
            "`ngc` and az:// do not go together: Triton reads Azure from as:// and from variables "
            "of other names, see docs/object-stores.md"
        )
    endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
    return f"s3://{endpoint.rstrip('/')}/{place}" if scheme == "s3" and endpoint else url


def _credentials() -> Iterator[str]:
    """Options that pass variables on by their names, so that no line shows a value."""
    for name in _VARIABLES:
        if os.environ.get(name):
            yield f"--env={name}"
    if file := os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        inside = "/credentials.json"
        yield f"--volume={Path(file).resolve()}:{inside}:ro"
        yield f"--env=GOOGLE_APPLICATION_CREDENTIALS={inside}"


def _volumes(folders: Sequence[Path]) -> Iterator[str]:
    for folder in folders:
        yield f"--volume={folder.resolve()}:/models/{folder.name}:ro"


def _published(ports: Ports, address: str, tls: Tls | None) -> Iterator[str]:
    """Options that open the ports. With TLS, those without it are for this machine only."""
    plain = address
    if tls:
        plain = "::1" if ":" in address else LOCALHOST
    endpoints = (
        (address, ports.grpc, 8001),
        (plain, ports.http, 8000),
        (plain, ports.metrics, 8002),
    )
    for host, outside, inside in endpoints:
        yield f"--publish={f'[{host}]' if ':' in host else host}:{outside}:{inside}"


def _tls_files(tls: Tls | None) -> Iterator[tuple[Path, str]]:
    """The files of TLS, with their places in the container."""
    if tls:
        for name, file in vars(tls).items():
            if file:
                yield file, f"/tls/{name}.pem"


def _tls_inside(tls: Tls | None) -> Iterator[str]:
    """The arguments of tritonserver for TLS, with the places in the container."""
    for argument in tls_arguments(tls):
        name, _, value = argument.partition("=")
        places = {str(file): inside for file, inside in _tls_files(tls)}
        yield f"{name}={places.get(value, value)}"
