"""Where the tritonserver comes from: the one on PATH, or the one that the `nvidia-pytriton` wheel carries.

NVIDIA's image has its own tritonserver with C++ backends; it is preferred. The wheel's server has the Python backend only, so its backend
folder is assembled here, with ours beside it. It wants real files, because it refuses links that lead out of the folder.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from server.errors import InstallationError

_BACKENDS = Path(__file__).with_name("backends")
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_PYTHON_LIBRARY = f"libpython{_PYTHON}.so.1.0"

# Tensors come and go with every request; without these, glibc gives their memory back to the kernel, which clears it anew (mallopt(3)).
# Measured on 2 cores: none of 52,000 page faults left in a TorchScript run at batch 8, which took 7 % less time.
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
        arguments: What it must always be given.
        environment: Variables it needs on top of ours.
        embedded: Whether it is the wheel's, served by our backends.
    """

    executable: Path
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    embedded: bool = False


def find(workspace: Path) -> Installation:
    """The tritonserver to use here.

    Args:
        workspace: An empty folder for the backends of the embedded server; it must outlive the server.

    Raises:
        InstallationError: There is none, or a part of it is missing.
    """
    if native := shutil.which("tritonserver"):
        return Installation(Path(native))
    return _embedded(workspace)


def _embedded(workspace: Path) -> Installation:
    spec = find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise InstallationError("no tritonserver on PATH, and none in this environment: pip install nvidia-pytriton==0.7.0")
    package = Path(spec.submodule_search_locations[0])
    triton, libraries = package / "tritonserver", package.parent / "nvidia_pytriton.libs"
    stub = triton / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    if not stub.exists():
        raise InstallationError(f"the embedded tritonserver has no stub for Python {_PYTHON}: use Python 3.11")
    _check_numpy()

    backends = workspace / "backends"
    shutil.copytree(triton / "backends" / "python", backends / "python", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(stub, backends / "python")
    for model in _BACKENDS.glob("*/model.py"):
        destination = backends / model.parent.name
        destination.mkdir()
        shutil.copy2(model, destination)
    return Installation(
        executable=triton / "bin" / "tritonserver",
        arguments=(f"--backend-directory={backends}", f"--cache-directory={triton / 'caches'}"),
        environment={
            "LD_LIBRARY_PATH": ":".join(filter(None, [str(libraries), str(libpython_folder()), os.environ.get("LD_LIBRARY_PATH")])),
            **KEEP_FREED_MEMORY,
            # The stub embeds the interpreter that it finds first on PATH, with that interpreter's site-packages. Its own choice of
            # PYTHONHOME or PYTHONPATH would lead it to another.
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
        },
        embedded=True,
    )


def libpython_folder() -> Path:
    """Where the shared library of the running Python lies; the stub is linked against it.

    Raises:
        InstallationError: It is not installed.
    """
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for folder in (sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib", f"/usr/lib/{multiarch}", "/usr/lib64", "/usr/lib"):
        if folder and Path(folder, _PYTHON_LIBRARY).exists():
            return Path(folder)
    raise InstallationError(
        f"{_PYTHON_LIBRARY} is missing, which Triton's Python backend needs. Install it: `apt-get install libpython{_PYTHON}` "
        f"(Debian, Ubuntu) or `dnf install python{_PYTHON}-libs` (Fedora); a Python of pyenv is built with it by "
        f"PYTHON_CONFIGURE_OPTS=--enable-shared"
    )


def _check_numpy() -> None:
    """The stub was built before numpy 2: with it every FP32 output would arrive empty."""
    from importlib.metadata import version

    if int(version("numpy").split(".")[0]) >= 2:
        raise InstallationError(
            f"the embedded tritonserver works with numpy 1.26, and {version('numpy')} is installed: pip install 'numpy<2'"
        )
