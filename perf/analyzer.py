"""NVIDIA's perf_analyzer: where the program comes from, and how it is run here.

The wheels of perf_analyzer need glibc 2.38. On older systems, pip installs release 0.1.0 of that
name, which is an empty placeholder. The program is also in the wheels of tritonclient up to 2.50.0,
which need glibc 2.34. These need two libraries: CUDA's runtime, from NVIDIA's wheel (no GPU is
needed), and libb64, which is in the wheel of the embedded tritonserver.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from seresnext101_triton.perf.errors import AnalyzerMissing

FOLDER = Path(sys.prefix) / "perf_analyzer"
_PROGRAM = "perf_analyzer"
_OWN_WHEEL = ("perf-analyzer==2.60.0", "manylinux_2_38_x86_64")
_OWN_GLIBC = (2, 38)
_OLDER_WHEELS = (
    ("tritonclient==2.50.0", "manylinux1_x86_64"),
    ("nvidia-cuda-runtime-cu12==12.9.79", "manylinux_2_17_x86_64"),
)
_FILES = (f"/bin/{_PROGRAM}", "libcudart.so.12")
_MINIMUM_BYTES = 1 << 20  # the placeholder has two thousand


def find() -> tuple[Path, dict[str, str]]:
    """Find the program: the one that `install` fetched, else the one on PATH.

    NVIDIA's SDK image has it on PATH.

    Returns:
        The path of the program, and the environment variables that it needs.

    Raises:
        AnalyzerMissing: There is none, or it is the placeholder, or it does not start.
    """
    for candidate in (FOLDER / _PROGRAM, Path(shutil.which(_PROGRAM) or "")):
        if not candidate.is_file():
            continue
        environment = (
            {"LD_LIBRARY_PATH": f"{FOLDER}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
            if candidate.parent == FOLDER
            else {}
        )
        _check(candidate, environment)
        return candidate, environment
    raise AnalyzerMissing(
        "there is no perf_analyzer: `make perf-analyzer` fetches NVIDIA's, or run inside NVIDIA's "
        "SDK image, which has it"
    )


def install() -> Path:
    """Download the program that runs on this system with pip, and put it into this environment.

    Returns:
        The path of the program.

    Raises:
        AnalyzerMissing: It cannot be downloaded, or does not run on this system.
    """
    glibc = tuple(map(int, platform.libc_ver()[1].split(".")))
    wheels = (_OWN_WHEEL,) if glibc >= _OWN_GLIBC else _OLDER_WHEELS
    with tempfile.TemporaryDirectory() as scratch:
        for requirement, tag in wheels:
            _download(requirement, tag, Path(scratch))
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir()
        for wheel in Path(scratch).iterdir():
            _extract(wheel)
    (FOLDER / _PROGRAM).chmod(0o755)
    if library := _libb64():
        (FOLDER / "libb64.so.0d").symlink_to(library)
    return find()[0]


def _download(requirement: str, tag: str, folder: Path) -> None:
    pip = [
        sys.executable,
        "-I",  # not a `pip.py` of the user's folder
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        f"--platform={tag}",
    ]
    done = subprocess.run([*pip, "--dest", folder, requirement], capture_output=True, text=True)
    if done.returncode:
        reason = [line for line in done.stderr.splitlines() if "ERROR" in line][-1:] or [
            "pip failed"
        ]
        raise AnalyzerMissing(f"{requirement} cannot be fetched: {reason[0]}")


def _extract(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(_FILES):
                (FOLDER / Path(name).name).write_bytes(archive.read(name))


def _libb64() -> Path | None:
    spec = find_spec("pytriton")
    locations = (spec and spec.submodule_search_locations) or []
    return next(
        (
            path
            for folder in locations
            for path in Path(folder).parent.glob("nvidia_pytriton.libs/libb64*")
        ),
        None,
    )


def _check(program: Path, environment: dict[str, str]) -> None:
    if program.stat().st_size < _MINIMUM_BYTES:
        raise AnalyzerMissing(
            f"{program} is the empty placeholder that pip installs where perf_analyzer's own wheel "
            "does not fit: pip uninstall perf-analyzer, then `make perf-analyzer`"
        )
    try:
        done = subprocess.run(
            [program, "--version"], env=os.environ | environment, capture_output=True, text=True
        )
    except OSError as error:
        raise AnalyzerMissing(f"{program} cannot be run: {error.strerror}") from None
    if done.returncode or "Perf Analyzer" not in done.stdout + done.stderr:
        reason = " ".join((done.stderr or done.stdout).split())
        raise AnalyzerMissing(
            f"{program} does not run here: {reason}. `make perf-analyzer` fetches one that does"
        )
