"""Copies of the project, with a worker in each."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.mutants.mutations import Mutant
from tests.mutants.reach import Reach

_BASELINE_LIMIT_S = 3600.0
_LEAST_LIMIT_S = (
    120.0  # of one mutant: a server that starts, and a machine that does something else meanwhile
)
_LIMIT_FACTOR = 8.0  # how many times as long as without the mutant its tests may take
# What the tests import, and takes long. The worker imports it once, for all mutants.
_PRELOAD = (
    *("torch", "onnx", "onnxruntime", "openvino", "onnxscript", "scipy.stats", "matplotlib.pyplot"),
    *("sklearn.datasets", "tritonclient.grpc", "tritonclient.http", "hypothesis"),
)
_NO_TESTS = 5  # pytest's exit code where nothing was collected


class Copy:
    """A copy of the files that git tracks or would add. Use as a context manager.

    A mutant is written into the copy and never into the user's own files.

    Args:
        root: The top of the project.
        folder: Where the copy goes; what is there is removed.
        preload: Modules that the worker imports before it begins, where they are installed.
    """

    def __init__(self, root: Path, folder: Path, preload: Sequence[str] = _PRELOAD) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        listed = subprocess.run(
            [
                "git",
                "-C",
                str(root),
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ],
            capture_output=True,
            check=True,
        )
        contents = []
        for name in map(os.fsdecode, listed.stdout.split(b"\0")):
            if name and ((root / name).is_symlink() or (root / name).is_file()):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, folder / name, follow_symlinks=False)
                if (root / name).is_file():
                    contents.append((name, hashlib.sha256((root / name).read_bytes()).hexdigest()))
        self.folder = folder
        self._contents = sorted(contents)
        self._preload = preload

    def __enter__(self) -> Copy:
        # Python identifies a compiled file by its source's size and time in seconds, which two
        # mutants may share.
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        self._worker = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.worker", *self._preload],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._worker.stdin is not None
        self._worker.stdin.close()
        self._worker.wait()
        for path in (self.folder, Path(f"{self.folder}.tmp")):
            shutil.rmtree(path, ignore_errors=True)

    def reach(self, files: Sequence[str], tests: Sequence[str]) -> Reach:
        """Run tests with nothing changed, or take the record of an earlier run of the same files.

        The record is kept beside the copy, under a digest of all files of the project.

        Raises:
            RuntimeError: They could not be run.
        """
        there = [test for test in tests if test.startswith("-") or (self.folder / test).exists()]
        path = self.record(files, there)
        if path.exists():
            return Reach(path)
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        self._order(
            {"watch": list(files), "tests": there, "to": str(new), "limit_s": _BASELINE_LIMIT_S}
        )
        if not new.exists():
            raise RuntimeError(
                f"the tests could not be run without a mutant: {self.folder}.log has their output"
            )
        new.replace(path)
        return Reach(path)

    def record(self, files: Sequence[str], tests: Sequence[str]) -> Path:
        """Where the record of a run is kept; another path if any file of the project changes."""
        text = repr((self._contents, sorted(files), list(tests)))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return self.folder.with_name(f"reach-{digest[:16]}.json")

    def survives(self, mutant: Mutant, reach: Reach) -> bool:
        """Whether all tests that reach a mutant pass with it."""
        tests = reach.tests(mutant.file, mutant.line, mutant.last, mutant.constant)
        limit_s = max(_LEAST_LIMIT_S, _LIMIT_FACTOR * reach.seconds(tests))
        code = self._order(
            {"file": mutant.file, "code": mutant.code, "tests": tests, "limit_s": limit_s}
        )["code"]
        return code in (0, _NO_TESTS)

    def _order(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._worker.stdin is not None and self._worker.stdout is not None
        self._worker.stdin.write(json.dumps(order) + "\n")
        self._worker.stdin.flush()
        answer = self._worker.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker in {self.folder} ended")
        found: dict[str, Any] = json.loads(answer)
        return found
