"""Faults in the system calls of `publisher.py`, injected by strace."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.export.publisher import MODELS, PRUNED

ROOT = Path(__file__).parent.parent.parent

# Numbers of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl of Linux).
CALLS = {
    "read": 0,
    "write": 1,
    "close": 3,
    "access": 21,
    "flock": 73,
    "fsync": 74,
    "rename": 82,
    "mkdir": 83,
    "rmdir": 84,
    "link": 86,
    "unlink": 87,
    "readlink": 89,
    "chmod": 90,
    "statfs": 137,
    "listxattr": 194,
    "getdents64": 217,
    "openat": 257,
    "newfstatat": 262,
    "unlinkat": 263,
    "utimensat": 280,
    "renameat2": 316,
}
CHANGING = {
    "write",
    "fsync",
    "rename",
    "mkdir",
    "rmdir",
    "link",
    "unlink",
    "chmod",
    "unlinkat",
    "utimensat",
    "renameat2",
    "openat",
}
# They do not touch the file system, or cannot fail.
HARMLESS = {
    "brk",
    "clock_nanosleep",
    "dup2",
    "exit_group",
    "fcntl",
    "fstat",
    "futex",
    "getpid",
    "getrandom",
    "gettid",
    "ioctl",
    "lseek",
} | {
    *(
        "madvise",
        "mmap",
        "mprotect",
        "mremap",
        "munmap",
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "set_robust_list",
        "sigaltstack",
    ),
}

Tree = dict[str, tuple[int, bytes]]


@dataclass(frozen=True)
class Run:
    """One publication with one fault.

    Attributes:
        where: The call that had it, for messages of the tests.
        code: The exit code; negative for a signal.
    """

    where: str
    root: Path
    code: int
    message: str


class Strace:
    """Runs the publisher under strace.

    Args:
        folder: Where repositories are made.
        action: A key of `publisher.ACTIONS`.
    """

    def __init__(self, folder: Path, action: str = "publish") -> None:
        self._folder = folder
        self._action = action
        if shutil.which("strace") is None:
            raise AssertionError("strace is not installed: apt-get install strace")
        self._count = 0

    def repository(self) -> Path:
        """A repository with the old models."""
        self._count += 1
        root = self._folder / str(self._count) / "models"
        for model in MODELS[1:]:
            (root / model / "1").mkdir(parents=True)
            (root / model / "1" / "model.pt").write_text("old")
            (root / model / "config.pbtxt").write_text("old config")
        if self._action == "prune":
            (root / PRUNED / "config.pbtxt").write_text("")
            for version in ("2", "3"):
                (root / PRUNED / version).mkdir()
                (root / PRUNED / version / "model.pt").write_text("old")
        (root.parent / "stderr").touch()
        return root

    def log(self, *options: str) -> tuple[Path, list[str], list[str]]:
        """Publish once without a fault.

        Returns:
            The repository, the system calls of the parent program, which starts the publication,
            and the system calls of the publication itself.
        """
        root, path = self.repository(), self._folder / "log"
        (code,) = self._run(["-y", "-o", str(path), *options], -1, [(root, 0)])
        assert code == 0, (root.parent / "stderr").read_text()
        lines = [line.split(maxsplit=1) for line in path.read_text(errors="replace").splitlines()]
        start = next(number for number, (_, call) in enumerate(lines) if call.startswith("dup2("))
        child = lines[start][0]
        return (
            root,
            [call for pid, call in lines if pid != child],
            [call for pid, call in lines[start + 1 :] if pid == child],
        )

    def inject(
        self,
        call: str,
        fault: str,
        parents: int,
        numbers: list[int],
        *options: str,
        trace: str = "",
        onwards: bool = False,
        roots: Sequence[Path] = (),
    ) -> list[Run]:
        """Publish once for each of several numbers, with a fault in the call of that number.

        Args:
            call: The name of a system call.
            fault: `error=EIO`, `signal=SIGKILL` and the like.
            parents: How many such calls the starting program may make itself.
            numbers: From 1; the first call of publishing is number 1.
            options: More for strace.
            trace: Names of all calls that any fault is in, where the options name more.
            roots: Repositories to publish into, one for each number; without them, new ones.
            onwards: The fault hits all calls after the first one as well.
        """
        when = parents + len(numbers) + max(numbers)
        roots = roots or [self.repository() for _ in numbers]
        runs = [(root, when - number) for root, number in zip(roots, numbers, strict=True)]
        inject = f"inject={call}:{fault}:when={when}{'+' if onwards else ''}"
        fast = [] if "signal" in fault else ["--seccomp-bpf"]  # which delivers no signals
        codes = self._run(
            [*fast, "-o", "/dev/null", "-e", f"trace={trace or call}", "-e", inject, *options],
            CALLS[call],
            runs,
        )
        return [
            Run(
                f"{fault} in {call} number {number}",
                root,
                code,
                (root.parent / "stderr").read_text(),
            )
            for number, (root, _), code in zip(numbers, runs, codes, strict=True)
        ]

    def _run(self, options: list[str], call: int, runs: list[tuple[Path, int]]) -> list[int]:
        order = {
            "action": self._action,
            "call": call,
            "warm_up": str(self.repository()),
            "runs": [(str(root), count) for root, count in runs],
        }
        command = ["strace", "-f", "-qq", *options, sys.executable, "-m", "tests.export.publisher"]
        # Measuring its coverage would add system calls.
        environment = {n: v for n, v in os.environ.items() if not n.startswith("COVERAGE_")}
        done = subprocess.run(
            command,
            input=json.dumps(order),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            timeout=600,
        )
        assert done.returncode == 0, (
            f"strace cannot trace here, or the publisher failed: {done.stderr}"
        )
        return list(json.loads(done.stdout))


def count(calls: list[str]) -> Counter[str]:
    """How often each system call was made."""
    return Counter(match.group(1) for call in calls if (match := re.match(r"([a-z_0-9]+)\(", call)))


def contents(root: Path) -> Tree:
    """Everything in a repository: names, modes, contents."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in root.rglob("*")
    }
