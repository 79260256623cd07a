"""Copies of the project, with a worker in each."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.mutants.mutations import Mutant
from tests.mutants.reach import Reach, of_file

_BASELINE_LIMIT_S = 3600.0
# How long the tests of a mutant may take, and how many times as long as without it.
_LEAST_LIMIT_S, _LIMIT_FACTOR = 40.0, 4.0
# What the tests import, and takes long. The worker imports it once, for all mutants.
_PRELOAD = (
    *("torch", "onnx", "onnxruntime", "openvino", "onnxscript", "scipy.stats", "matplotlib.pyplot"),
    *("sklearn.datasets", "tritonclient.grpc", "tritonclient.http", "hypothesis"),
)
SURVIVED = "SURVIVED"
BY_TYPES = "killed by mypy"
_ILL_TYPED = 1  # mypy's exit code where it found an error; it has 2 where it could not run
_NO_TESTS = 5  # pytest's exit code where nothing was collected
_TEST = re.compile(r"(^|/)test_[^/]*\.py$|^tests/mutants/")


class Copy:
    """A copy of the files that git tracks or would add. Use as a context manager.

    A mutant is written into the copy and never into the user's own files.

    Args:
        root: The top of the project.
        folder: Where the copy goes; what is there is removed.
        preload: Modules that the worker imports before it begins, where they are installed.
        typed: What mypy checks, from the top of the project.
    """

    def __init__(
        self,
        root: Path,
        folder: Path,
        preload: Sequence[str] = _PRELOAD,
        typed: str = "seresnext101_triton",
    ) -> None:
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
        # Some tests ask git for the files of the project.
        subprocess.run(["git", "init", "--quiet", folder], check=True)
        subprocess.run(["git", "-C", folder, "add", "--all"], check=True)
        self.folder = folder
        self._contents = dict(sorted(contents))
        self._preload = preload
        self._typed = typed

    def __enter__(self) -> Copy:
        environment = os.environ | {
            # Python identifies a compiled file by its source's size and time in seconds, which two
            # mutants may share.
            "PYTHONDONTWRITEBYTECODE": "1",
            "HYPOTHESIS_PROFILE": "mutants",
            # Programs that tests start elsewhere, and Triton's stub, would import the original.
            "PYTHONPATH": f"{self.folder}:{os.environ.get('PYTHONPATH', '')}",
        }
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
        for path in (self.folder, Path(f"{self.folder}.tmp"), Path(f"{self.folder}.mypy")):
            shutil.rmtree(path, ignore_errors=True)

    def reach(self, files: Sequence[str], tests: Sequence[str]) -> Reach:
        """Run tests with nothing changed, or take the records of earlier runs.

        There is a record for each file of tests, beside the copy, under a digest of what matters.

        Args:
            files: What is mutated.
            tests: Files and folders.

        Raises:
            RuntimeError: They could not be run.
        """
        records = {test: self.record(files, test) for test in self._files(tests)}
        missing = [test for test, record in records.items() if not record.exists()]
        if missing:
            new = Path(f"{self.folder}.new")
            new.unlink(missing_ok=True)
            order = {"watch": list(files), "tests": missing, "to": str(new)}
            self._order(order | {"limit_s": _BASELINE_LIMIT_S})
            if not new.exists():
                raise RuntimeError(
                    "the tests could not be run without a mutant: "
                    f"{self.folder}.log has their output"
                )
            content = json.loads(new.read_text())
            for test in missing:
                records[test].write_text(json.dumps(of_file(content, test)))
        return Reach([json.loads(record.read_text()) for record in records.values()])

    def _files(self, tests: Sequence[str]) -> list[str]:
        """The files of tests in folders."""
        return sorted(
            name
            for name in self._contents
            if _TEST.search(name)
            and any(name == test or name.startswith(f"{test}/") for test in tests)
        )

    def record(self, files: Sequence[str], test: str) -> Path:
        """Where the record of a file of tests is kept.

        It is another path if the file changes, one of the files that are mutated, or what tests
        share.
        """
        others = {
            name: digest
            for name, digest in self._contents.items()
            if name in files or (name.startswith("tests/") and not _TEST.search(name))
        }
        text = repr((others, sorted(files), test, self._contents[test]))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return self.folder.with_name(f"reach-{digest[:16]}.json")

    def outcome(self, mutant: Mutant, reach: Reach) -> str:
        """Whether a mutant `SURVIVED`, or how it was `killed`.

        The quick tests run first, then mypy, which CI runs too, and then the other tests.
        """
        quick, *others = reach.stages(mutant.file, mutant.line, mutant.last, mutant.constant) or [
            []
        ]
        if killer := self._killer(mutant, quick, reach):
            return killer
        if self._ill_typed(mutant):
            return BY_TYPES
        killers = (self._killer(mutant, tests, reach) for tests in others)
        return next(filter(None, killers), SURVIVED)

    def _killer(self, mutant: Mutant, tests: list[str], reach: Reach) -> str:
        """The test that fails with a mutant, or nothing.

        A test that fails must fail again, alone: what fails once may be due to a loaded machine.
        """
        while failed := self._failed(mutant, tests, reach):
            if self._failed(mutant, [failed], reach):
                return f"killed by {failed}"
            tests = tests[tests.index(failed) + 1 :]
        return ""

    def _ill_typed(self, mutant: Mutant) -> bool:
        """Whether mypy finds an error in a mutant, and none with nothing changed."""
        path = self.folder / mutant.file
        whole = path.read_text(encoding="utf-8")
        if self._mypy() != 0:
            return False
        # mypy takes a file of the same length and of the same second for unchanged.
        stamp = path.stat().st_mtime
        path.write_text(mutant.code, encoding="utf-8")
        os.utime(path, (stamp + 10, stamp + 10))
        try:
            return self._mypy() == _ILL_TYPED
        finally:
            path.write_text(whole, encoding="utf-8")
            os.utime(path, (stamp + 20, stamp + 20))

    def _mypy(self) -> int:
        return subprocess.run(
            [sys.executable, "-m", "mypy", f"--cache-dir={self.folder}.mypy", self._typed],
            cwd=self.folder,
            capture_output=True,
        ).returncode

    def _failed(self, mutant: Mutant, tests: Sequence[str], reach: Reach) -> str:
        """Run tests with a mutant, and name the first that fails or does not end."""
        order: dict[str, Any] = {
            "file": mutant.file,
            "code": mutant.code,
            "tests": tests,
            "limit_s": _LEAST_LIMIT_S + _LIMIT_FACTOR * reach.seconds(tests),
        }
        answer = self._order(order) if tests else {"code": 0}
        return "" if answer["code"] in (0, _NO_TESTS) else str(answer["last"] or tests[0])

    def _order(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._worker.stdin is not None and self._worker.stdout is not None
        self._worker.stdin.write(json.dumps(order) + "\n")
        self._worker.stdin.flush()
        answer = self._worker.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker in {self.folder} ended")
        found: dict[str, Any] = json.loads(answer)
        return found
