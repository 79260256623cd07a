"""Finds the tritonserver: the one on PATH, or the one in the wheel `nvidia-pytriton`.

The server on PATH is preferred; NVIDIA's image has one, with C++ backends. The server in the wheel
has the Python backend only. Its folder of backends is made here and holds the backends of this
project too, as copies, because the server refuses links that lead out of the folder.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from seresnext101_triton.server.embedded import EMBEDDED_CONFIG_NAME
from seresnext101_triton.server.errors import InstallationError

# Folders of backends: `<name>/model.py` serves the models whose config.pbtxt names that backend.
BACKEND_FOLDERS = [Path(__file__).with_name("backends")]
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_PYTHON_LIBRARY = f"libpython{_PYTHON}.so.1.0"
# The package asks for numpy 1, which Python 3.13 does not have and which the server does not need.
_PACKAGE = f"{'--no-deps ' if sys.version_info >= (3, 13) else ''}nvidia-pytriton==0.7.0"

# Every request allocates and frees tensors. Without these variables, glibc returns their memory to
# the kernel, which clears it again for the next request (mallopt(3)). Measured with TorchScript at
# batch 8 on 2 cores: no page fault instead of 52,000, and 7 % less time.
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


@dataclass(frozen=True)
class Installation:
    """A tritonserver that can be started.

    Attributes:
        executable: The program.
        arguments: Arguments that the program always needs.
        environment: Environment variables that the program needs besides those of this process.
        embedded: Whether it is the server in the wheel, which runs the backends of this project.
        passes_bytes: Whether its Python backend can take BYTES tensors.
    """

    executable: Path
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    embedded: bool = False
    passes_bytes: bool = True


def find(workspace: Path) -> Installation:
    """Find the tritonserver to use on this machine.

    Args:
        workspace: An empty folder for the backends of the embedded server. It must exist for as
            long as the server runs.

    Raises:
        InstallationError: There is no server, or a part of it is missing.
    """
    if native := shutil.which("tritonserver"):
        return Installation(Path(native))
    return _embedded(workspace)


def _embedded(workspace: Path) -> Installation:
    """The server in the wheel, with the stub for the running Python."""
    spec = find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise InstallationError(
            f"no tritonserver on PATH, and none in this environment: pip install {_PACKAGE}"
        )
    package = Path(spec.submodule_search_locations[0])
    triton = package / "tritonserver"
    stub = triton / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    if not stub.exists():
        raise InstallationError(
            f"the embedded tritonserver has no stub for Python {_PYTHON}: use Python 3.10 to 3.13"
        )
    _check_numpy()
    backends = workspace / "backends"
    _copy_backends(triton / "backends" / "python", stub, backends)
    libraries = [
        str(package.parent / "nvidia_pytriton.libs"),
        str(libpython_folder()),
        *filter(None, [os.environ.get("LD_LIBRARY_PATH")]),
    ]
    return Installation(
        executable=triton / "bin" / "tritonserver",
        arguments=(
            f"--backend-directory={backends}",
            f"--cache-directory={triton / 'caches'}",
            f"--model-config-name={EMBEDDED_CONFIG_NAME}",
        ),
        environment={
            "LD_LIBRARY_PATH": ":".join(libraries),
            **KEEP_FREED_MEMORY,
            # The stub embeds the first Python on PATH, with the site-packages of that Python.
            # PYTHONHOME or PYTHONPATH, as the stub sets them itself, would select another one.
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
        },
        embedded=True,
        passes_bytes=_numpy_version().startswith("1."),
    )


def _copy_backends(python_backend: Path, stub: Path, backends: Path) -> None:
    """Make the folder of backends: Triton's Python backend with its stub, and this project's."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(python_backend, backends / "python", ignore=ignored)
    shutil.copy2(stub, backends / "python")
    for model in (path for folder in BACKEND_FOLDERS for path in folder.glob("*/model.py")):
        destination = backends / model.parent.name
        destination.mkdir()
        shutil.copy2(model, destination)


def libpython_folder() -> Path:
    """The folder with the shared library of the running Python, which the stub is linked with.

    Raises:
        InstallationError: The library is not installed.
    """
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    folders = (
        sysconfig.get_config_var("LIBDIR"),
        f"{sys.base_prefix}/lib",
        f"/usr/lib/{multiarch}",
        "/usr/lib64",
        "/usr/lib",
    )
    for folder in folders:
        if folder and Path(folder, _PYTHON_LIBRARY).exists():
            return Path(folder)
    raise InstallationError(
        f"{_PYTHON_LIBRARY} is missing, which Triton's Python backend needs. Install it: "
        f"`apt-get install libpython{_PYTHON}` (Debian, Ubuntu) or "
        f"`dnf install python{_PYTHON}-libs` (Fedora). With pyenv, build Python with "
        f"PYTHON_CONFIGURE_OPTS=--enable-shared"
    )


def _numpy_version() -> str:
    from importlib.metadata import version

    return version("numpy")


def _check_numpy() -> None:
    """Refuse numpy 2.0, whose tensors the stub of the embedded server cannot take.

    The stub was built against numpy 1. With numpy 2, tensors are exchanged by DLPack. numpy 2.0
    releases a DLPack capsule under a name that the stub has changed; numpy 2.1 accepts that name.

    Raises:
        InstallationError: numpy is of version 2.0.
    """
    installed = _numpy_version()
    if installed.split(".")[:2] == ["2", "0"]:
        raise InstallationError(
            f"the embedded tritonserver works with numpy 1.26, or 2.1 and later, and not with "
            f"numpy {installed}: pip install 'numpy!=2.0.*'"
        )
