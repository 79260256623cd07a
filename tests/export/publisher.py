"""The program that `faults.py` runs under strace to inject faults: it changes repositories.

It imports all that it needs and then forks one child for each repository. Strace injects the fault
into a call with a fixed number. A child therefore first makes a given number of calls of that kind
that have no effect, and so the fault hits another call of the publication.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import traceback
from pathlib import Path

from seresnext101_triton.export import interruption
from seresnext101_triton.export.errors import RepositoryError
from seresnext101_triton.export.operations import prune
from seresnext101_triton.export.repository import Repository

# A new model, one that gets a new version, and one that gets a new config only.
MODELS = ("fresh", "grows", "same")
# The model whose old versions are pruned.
PRUNED = "same"


def publish(root: Path) -> int:
    """The transaction: three models change."""
    repository = Repository(root)
    try:
        with repository.exclusive() as publication:
            publication.prepare(MODELS, 1)
            built = {model: publication.scratch() for model in ("fresh", "grows")}
            for folder in built.values():
                for filename in ("model.pt", "manifest.json"):
                    (folder / filename).write_text(f"new {filename}")
            for model in MODELS:
                staged = publication.stage(model)
                if model in built:
                    staged.add_version(repository.next_version(model), built[model])
                staged.write("config.pbtxt", "new config")
            publication.publish()
    except RepositoryError as error:
        interruption.check()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def prune_old(root: Path) -> int:
    """Remove all versions but the newest one of a model."""
    try:
        prune(root, 1, [PRUNED])
    except RepositoryError as error:
        interruption.check()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


ACTIONS = {"publish": publish, "prune": prune_old}


def _child(action: str, root: Path, output: int, call: int, count: int) -> None:
    """Change one repository, write messages to a file, and end with the exit code."""
    void = ctypes.CDLL(None).syscall
    os.dup2(output, 2)
    for _ in range(count):
        void(call, -1, None, -1, None, 0)
    os._exit(interruption.run(lambda: ACTIONS[action](root), "the repository is as it was"))


def main() -> None:
    """Change each repository of the order.

    Standard input holds `{"action": name, "call": number, "runs": [[root, count], ...]}`. The
    exit codes, negative for signals, are written to standard output.
    """
    order = json.load(sys.stdin)
    action = order["action"]
    ACTIONS[action](Path(order["warm_up"]))  # what is imported late is imported now
    codes = []
    for root, count in order["runs"]:
        output = os.open(Path(root).parent / "stderr", os.O_WRONLY)
        if (pid := os.fork()) == 0:
            try:
                _child(action, Path(root), output, order["call"], count)
            except BaseException:
                os.write(2, traceback.format_exc().encode())
                os._exit(99)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    json.dump(codes, sys.stdout)


if __name__ == "__main__":
    main()
