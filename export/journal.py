"""The steps that publish models, and the journal of them.

By the journal the next export undoes an export that was killed between two steps.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seresnext101_triton.export import interruption
from seresnext101_triton.export.errors import RepositoryError
from seresnext101_triton.export.filesystem import reason, remove_tree, sync
from seresnext101_triton.server.folders import exchange, settle

_JOURNAL = ".journal.json"  # no model's name begins with a dot


@dataclass(frozen=True)
class Move:
    """The step that publishes one model, and its opposite.

    What has happened so far is always read from the disk.

    Attributes:
        stage: The new folder before the step. After it, the old one is there.
        target: The model's place in the repository.
        inode: The new folder's inode number, which tells it from the old one wherever it is.
        replaces: Whether there is an old one.
    """

    stage: Path
    target: Path
    inode: int
    replaces: bool

    @classmethod
    def of(cls, stage: Path, root: Path, *, replaces: bool) -> Move:
        """The step for a staged folder."""
        return cls(stage, root / stage.name, stage.stat().st_ino, replaces)

    @property
    def made(self) -> bool:
        """Whether the new folder is in the repository."""
        return _inode(self.target) == self.inode

    def check(self) -> None:
        """Refuse two folders of which neither is the new one.

        They are copies of the folders that the journal names, so the new one cannot be told.

        Raises:
            RepositoryError: It is so.
        """
        found = _inode(self.stage), _inode(self.target)
        if self.replaces and None not in found and self.inode not in found:
            raise RepositoryError(
                "an export was killed while it published, and it cannot be told which of "
                f"{self.target} and {self.stage} is the old one: keep the one you want in the "
                f"repository, and remove {self.stage.parent}"
            )

    @property
    def state(self) -> str:
        """Of the model in the repository, for a person."""
        try:
            if self.made:
                return "new"
            return "missing" if self.replaces and not os.path.lexists(self.target) else "as it was"
        except OSError as error:
            return f"unknown ({error.strerror})"

    def make(self) -> None:
        """Publish the model."""
        if self.replaces:
            exchange(self.stage, self.target)
        else:
            os.rename(self.stage, self.target)

    def undo(self) -> None:
        """Take it back, as far as it is published."""
        settle(self.stage, self.target)
        if not self.made:
            return
        if self.replaces:
            exchange(self.stage, self.target)
        else:
            os.rename(self.target, self.stage)


def undo_killed(root: Path) -> list[str]:
    """Remove what interrupted exports have left beside a repository.

    What such an export had published is undone, unless it had published all of its models.

    Returns:
        The models that were put back.

    Raises:
        RepositoryError: A model cannot be put back.
    """
    restored: list[str] = []
    ours = re.compile(re.escape(prefix(root)) + "[a-z0-9_]+")  # as `tempfile` names them
    with os.scandir(root.parent) as entries:
        leftovers = [
            Path(entry.path)
            for entry in entries
            if ours.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        ]
    for folder in leftovers:
        restored += _put_back(_read(folder, root), root)
        discard(folder)
    return restored


def _put_back(moves: Sequence[Move], root: Path) -> list[str]:
    """Undo the moves of an export that was killed, unless all were made.

    An export that was killed after its last move has published everything.
    """
    with interruption.held_back():
        try:
            for move in moves:
                settle(move.stage, move.target)
            for move in moves:
                move.check()
            made = [move.target.name for move in moves if move.made]
            if len(made) == len(moves):
                for path in {root, *(move.stage.parent for move in moves)}:
                    sync(path)  # the old ones are removed next
                return []
            for error in undo(moves):
                raise error
            sync(root)
            sync(moves[0].stage.parent)
        except OSError as error:
            raise RepositoryError(
                f"{root}: an export was killed while it published, and undoing that failed: "
                f"{reason(error)}. {states(moves)}. "
                f"The old models are in {moves[0].stage.parent}: leave it there and run again"
            ) from None
    return made


def undo(moves: Sequence[Move]) -> list[OSError]:
    """Undo every move that can be undone, the last one first; returns why others cannot."""
    failures = []
    for move in reversed(moves):
        try:
            move.undo()
        except OSError as error:
            failures.append(error)
    return failures


def states(moves: Sequence[Move]) -> str:
    """The state of every model, for a person."""
    return ", ".join(f"{move.target.name} is {move.state}" for move in moves)


def write(folder: Path, moves: Sequence[Move]) -> None:
    """Write down what is about to happen, durably."""
    path = folder / _JOURNAL
    models = [
        {"name": move.target.name, "inode": move.inode, "replaces": move.replaces} for move in moves
    ]
    path.write_text(json.dumps({"models": models}), encoding="utf-8")
    sync(path)
    sync(folder)


def _read(folder: Path, root: Path) -> list[Move]:
    """The moves that an export was about to make.

    There are none where it ended before it had written them down.

    Raises:
        RepositoryError: The journal is not one that this version writes.
    """
    path = folder / _JOURNAL
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):  # it was not finished, and no move comes before it is
        return []
    try:
        models = [
            (model["name"], int(model["inode"]), bool(model["replaces"]))
            for model in content["models"]
        ]
        if any((root / name).parent != root or name == ".." for name, _, _ in models):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise RepositoryError(
            f"{path} is not a journal of this exporter: "
            f"look at the models in {root} and {folder}, and remove it"
        ) from None
    return [Move(folder / name, root / name, inode, replaces) for name, inode, replaces in models]


def discard(folder: Path) -> None:
    """Remove a staging folder, the journal first."""
    with suppress(OSError):
        (folder / _JOURNAL).unlink()
    remove_tree(folder)


def prefix(root: Path) -> str:
    """How the names of a repository's staging folders begin."""
    return f".{root.name}.staging-"


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return None
