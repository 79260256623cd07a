"""Faults in every system call of a publication: an error, a kill, a signal.

Strace injects them into the real program. After each fault the repository holds either all old
models or all new ones, the message says which, and the next export removes all leftovers.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from seresnext101_triton.export.repository import Repository
from tests.export.faults import CALLS, CHANGING, HARMLESS, Run, Strace, Tree, contents, count
from tests.export.publisher import MODELS, PRUNED

AS_IT_WAS = "the repository is as it was"


class Publishing:
    """A publication without a fault: the repository before and after it, and its system calls."""

    def __init__(self, folder: Path) -> None:
        self.strace = Strace(folder)
        self.old = contents(self.strace.repository())
        self.root, starting, self.log = self.strace.log()
        self.new = contents(self.root)
        self.starting = count(starting)
        self.calls: Counter[str] = count(self.log)

    def inject(
        self,
        call: str,
        fault: str,
        *options: str,
        step: int = 1,
        start: int = 1,
        total: int | None = None,
        trace: str = "",
        onwards: bool = False,
    ) -> list[Run]:
        """Run once for each number of the call: from `start`, in steps of `step`, to `total`.

        Without `total`, the last number is the number of such calls in a run without a fault.
        """
        numbers = list(range(start, (total or self.calls[call]) + 1, step))
        if not numbers:
            return []
        return self.strace.inject(
            call, fault, self.starting[call], numbers, *options, trace=trace, onwards=onwards
        )

    def judge(self, run: Run) -> str:
        """Check one run and the recovery by the next export.

        Returns:
            `old` or `new`: the models in the repository after the recovery.
        """
        found = contents(run.root)
        assert "Traceback" not in run.message, (run.where, run.message)
        if run.code == 0:
            assert found == self.new and not run.message, run.where
        elif run.code == 73:
            assert found == self.old, (run.where, run.message)
            assert (
                run.message.startswith("error: ")
                and "as it was" in run.message
                and run.message.count("\n") == 1
            ), run.where
        elif run.code == 130:
            ended = (
                AS_IT_WAS if found == self.old else "all that was asked for is in the repository"
            )
            assert run.message == f"interrupted; {ended}\n", run.where
            assert found in (self.old, self.new), run.where
        else:
            assert (run.code, run.message) == (-9, ""), (run.where, run.code, run.message)
        with Repository(run.root).exclusive():
            pass
        healed = contents(run.root)
        assert healed in (self.old, self.new), run.where
        assert run.code == -9 or healed == found, run.where
        assert sorted(path.name for path in run.root.parent.iterdir()) == ["models", "stderr"], (
            run.where
        )
        return "old" if healed == self.old else "new"


@pytest.fixture(scope="module")
def publishing() -> Iterator[Publishing]:
    # In memory, where fsync takes no time.
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="publishing-") as folder:
        yield Publishing(Path(folder))


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        *(("rename", fault) for fault in ("error=EIO", "signal=SIGKILL", "signal=SIGTERM")),
        *(("fsync", fault) for fault in ("error=EIO", "signal=SIGKILL")),
    ],
)
def test_a_fault_while_old_versions_are_removed(call, fault):
    """Each version is whole or gone. After an error none is gone. The newest one always stays."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="pruning-") as folder:
        strace = Strace(Path(folder), "prune")
        _, starting, log = strace.log()
        calls = count(log)[call]
        assert calls
        numbers = list(range(1, calls + 1))
        runs = strace.inject(call, fault, count(starting)[call], numbers)
        for run in runs:
            with Repository(run.root).exclusive():
                pass
            left = Repository(run.root).versions(PRUNED)
            whole = [each for each in left if (run.root / PRUNED / str(each) / "model.pt").exists()]
            assert left == whole and left[-1] == 3, run.where
            if run.code == 73:
                assert left == [1, 2, 3] and "as it was" in run.message, run.where
            else:
                assert run.code in (0, 130, -9), (run.where, run.message)


def test_every_system_call_of_publishing_is_known(publishing):
    """A new kind of call must be added to the faults below, or named as one that needs none."""
    assert set(publishing.calls) - HARMLESS <= set(CALLS)
    assert {"fsync", "rename", "renameat2", "link", "write"} <= set(publishing.calls)


@pytest.mark.parametrize("call", sorted(CALLS))
def test_an_error_in_any_call(publishing, call):
    """In every call that may change something; of the calls that only look, in every fourth."""
    for run in publishing.inject(call, "error=EIO", step=1 if call in CHANGING else 4):
        publishing.judge(run)


@pytest.mark.parametrize("call", sorted(CHANGING))
def test_a_kill_before_any_call_that_changes_something(publishing, call):
    """A kill before a call that only reads needs no test.

    It leaves the same repository as a kill before the next call that changes something.
    """
    runs = publishing.inject(call, "signal=SIGKILL")
    assert {run.code for run in runs} <= {-9}
    for run in runs:
        publishing.judge(run)


@pytest.mark.parametrize(
    ("fault", "step"), [("signal=SIGTERM", 1), ("signal=SIGINT", 6), ("signal=SIGHUP", 6)]
)
def test_an_interruption_in_any_call(publishing, fault, step):
    """SIGTERM in every call that changes something; SIGINT and SIGHUP, handled alike, in some."""
    runs = [run for call in sorted(CHANGING) for run in publishing.inject(call, fault, step=step)]
    assert {run.code for run in runs} == {130}
    assert {publishing.judge(run) for run in runs} == {"old", "new"}


@pytest.mark.parametrize("call", ["renameat2", "rename"])
def test_an_interruption_during_the_renames_waits_for_the_last(publishing, call):
    """The fresh model is published by rename, the other two by renameat2."""
    last = publishing.calls[call]
    for run in publishing.inject(call, "signal=SIGTERM", start=last if call == "rename" else 1):
        assert publishing.judge(run) == "new", run.where


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("ENOSPC", "the disk is full: make room"),
        ("EDQUOT", "the quota is used up: make room"),
        ("EROFS", "the file system is read-only: name another `repository`"),
        ("EACCES", "no permission"),
        ("EMLINK", "Too many links"),
    ],
)
@pytest.mark.parametrize("call", ["mkdir", "rename", "renameat2"])
def test_the_message_says_why(publishing, call, error, reason):
    # The first mkdir makes the repository's own folder, which exists already.
    first = 2 if call == "mkdir" else 1
    for run in publishing.inject(call, f"error={error}", start=first):
        assert publishing.judge(run) == "old", run.where
        assert f"models cannot be written, and is as it was: {reason}" in run.message, run.where


@pytest.mark.parametrize("call", ["rename", "renameat2"])
def test_what_cannot_be_undone_is_named_model_by_model(publishing, call):
    """Every rename from one number on fails, so that the publication cannot be undone.

    The next export, on a disk that works, restores all old models.
    """
    total = publishing.calls[call]
    named = 0
    for run in publishing.inject(call, "error=EIO", onwards=True):
        found = contents(run.root)
        if found == publishing.old:
            assert run.code == 73 and "as it was" in run.message
            continue
        named += 1
        assert (
            run.code == 73 and "The next export tries again to put the old ones back" in run.message
        )
        for model in MODELS:
            state = "new" if of(found, model) == of(publishing.new, model) else "as it was"
            assert state == "new" or of(found, model) == of(publishing.old, model)
            assert f"{model} is {state}" in run.message, run.message
        with Repository(run.root).exclusive() as publication:
            assert publication.restored
        assert contents(run.root) == publishing.old
        assert sorted(path.name for path in run.root.parent.iterdir()) == ["models", "stderr"]
    assert named == (1 if call == "renameat2" else 0), total


NO_EXCHANGE = ("-e", "inject=renameat2:error=EINVAL")


@pytest.mark.parametrize("fault", ["error=EIO", "signal=SIGKILL", "signal=SIGTERM"])
def test_a_file_system_that_cannot_exchange(publishing, fault):
    """Two models are replaced by three renames each, beside the renames there are otherwise."""
    total = publishing.calls["rename"] + 6
    runs = publishing.inject("rename", fault, *NO_EXCHANGE, total=total, trace="rename,renameat2")
    assert {run.code for run in runs} == {
        {"error=EIO": 73, "signal=SIGKILL": -9, "signal=SIGTERM": 130}[fault]
    }
    for run in runs:
        publishing.judge(run)


def test_a_file_system_that_cannot_exchange_and_fails_for_good(publishing):
    total = publishing.calls["rename"] + 6
    missing = 0
    for run in publishing.inject(
        "rename", "error=EIO", *NO_EXCHANGE, total=total, trace="rename,renameat2", onwards=True
    ):
        assert run.code == 73
        missing += " is missing" in run.message
        published = "all new models are in the repository" in run.message
        with Repository(run.root).exclusive():
            pass
        assert contents(run.root) == (publishing.new if published else publishing.old), run.where
        assert published == run.where.endswith(f" {total}"), (
            "only the very last rename comes after the last model is new"
        )
    assert missing == 2


@pytest.mark.parametrize("fault", ["error=EIO", "signal=SIGKILL", "signal=SIGTERM"])
@pytest.mark.parametrize("call", ["renameat2", "rename", "fsync", "unlink", "rmdir", "unlinkat"])
def test_a_fault_while_the_next_export_mends(publishing, call, fault):
    """One export was killed between its renames; the next one, which undoes it, has a fault too."""
    numbers = list(range(1, publishing.calls[call] + 5, 3 if call in ("fsync", "unlinkat") else 1))
    starting, last = publishing.starting, publishing.calls["renameat2"]
    killed = publishing.strace.inject(
        "renameat2", "signal=SIGKILL", starting["renameat2"], [last] * len(numbers)
    )
    assert all(contents(run.root) not in (publishing.old, publishing.new) for run in killed)
    for run in publishing.strace.inject(
        call, fault, starting[call], numbers, roots=[run.root for run in killed]
    ):
        if run.code == 73 and contents(run.root) not in (publishing.old, publishing.new):
            # Undoing it failed: what is said is the state of every model.
            assert (
                "an export was killed while it published, and undoing that failed" in run.message
            ), run.where
            assert all(f"{model} is " in run.message for model in MODELS), run.message
        elif run.code == 130 and contents(run.root) not in (publishing.old, publishing.new):
            raise AssertionError(f"{run.where}: an interruption left what it found half done")
        with Repository(run.root).exclusive():
            pass
        assert contents(run.root) in (publishing.old, publishing.new), run.where
        assert sorted(path.name for path in run.root.parent.iterdir()) == ["models", "stderr"], (
            run.where
        )


def test_a_file_system_without_hard_links(publishing):
    """Files are copied then, and an error of the copy is an error of the publication."""
    (run,) = publishing.inject("link", "error=EPERM", total=1, onwards=True)
    assert (run.code, publishing.judge(run)) == (0, "new")


def of(tree: Tree, model: str) -> Tree:
    """One model's part of a repository."""
    return {name: content for name, content in tree.items() if name.split("/")[0] == model}


def test_all_is_on_the_disk_before_the_first_rename(publishing):
    """First fsync of every published file and folder, of the journal, and of the parent folders.

    Then the renames, and then fsync of both folders.
    """
    root = publishing.root
    assert (root / "fresh").is_dir()
    renames = [
        number
        for number, call in enumerate(publishing.log)
        if re.match(rf'rename(at2)?\(.*"{root}/[a-z]+"', call)
    ]

    def synced(calls):
        matches = [re.match(r"fsync\(\d+<(.*?)>\) += 0", call) for call in calls]
        return [match.group(1) for match in matches if match]

    before, after = synced(publishing.log[: renames[0]]), synced(publishing.log[renames[-1] :])
    assert len(renames) == len(MODELS)
    assert synced(publishing.log[renames[0] : renames[-1]]) == []
    (staging,) = {
        "/".join(path.split("/")[: len(root.parts)]) for path in before if path != str(root.parent)
    }
    assert staging.startswith("/" + "/".join(root.parent.parts[1:]) + "/.models.staging-")
    published = {str(path.relative_to(root)) for path in root.rglob("*")}
    assert {path.removeprefix(f"{staging}/") for path in before} == published | {
        ".journal.json",
        staging,
        str(root.parent),
    }
    assert before[-3:] == [f"{staging}/.journal.json", staging, str(root.parent)]
    assert after == [str(root), staging]
    writes = [
        number
        for number, call in enumerate(publishing.log)
        if call.startswith("write(") and staging in call
    ]
    syncs = [number for number, call in enumerate(publishing.log) if call.startswith("fsync(")]
    # The last write is the journal's.
    assert max(writes[:-1]) < min(syncs), "a file changes after it was synced"
