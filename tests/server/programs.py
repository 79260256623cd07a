"""A short program in the place of tritonserver, which is on PATH."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from seresnext101_triton.client.launches import FOLDER_VARIABLE

COMPLETE = 'input { name: "x" } output { name: "y" }'
READY = {"name": "m", "version": "1", "state": "READY"}


class Program:
    """The program in the place of tritonserver, which is the only one on PATH.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "tritonserver"
        # A shell gives its process id to the program that it becomes.
        file = Path(__file__).with_name("tritonserver_program.py")
        self.path.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {file} "$@"\n')
        self.path.chmod(0o755)
        self.plan()

    @classmethod
    def installed(cls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
        """The program on PATH; launches and what is temporary have folders of their own.

        Args:
            folder: An empty folder.
            monkeypatch: Undoes it.
        """
        for name in ("program", "temporary"):
            (folder / name).mkdir()
        program = cls(folder / "program")
        monkeypatch.setenv("PROGRAM_FOLDER", str(program.folder))
        monkeypatch.setenv("PATH", f"{program.folder}:{os.environ['PATH']}")
        monkeypatch.setenv(FOLDER_VARIABLE, str(folder / "launches"))
        monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))
        return program

    def plan(self, **plan: object) -> None:
        """Say what the program does. Without anything, model `m` is ready."""
        (self.folder / "plan.json").write_text(json.dumps({"index": [READY]} | plan))

    def starts(self) -> list[dict[str, Any]]:
        """How it was started each time."""
        return [json.loads(line) for line in self._lines("starts")]

    def asked(self) -> list[str]:
        """What it was asked to do."""
        return self._lines("asked")

    def _lines(self, file: str) -> list[str]:
        path = self.folder / file
        return path.read_text().splitlines() if path.exists() else []
