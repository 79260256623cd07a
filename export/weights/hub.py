"""Weights through torch.hub, as NVIDIA documents it.

torch.hub runs the code of NVIDIA's repository, so this is only done when asked for.

That code runs in a process of its own and hands over tensors and nothing else: what it puts on
`sys.path`, changes in torch, prints, or ends, does not reach the export. What it hands over is read
as any other checkpoint.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from seresnext101_triton.export.errors import CheckpointError, SourceUnavailable
from seresnext101_triton.export.network import Architecture, SEResNeXt
from seresnext101_triton.export.weights.checkpoint import build, sha256_of_tensors
from seresnext101_triton.export.weights.choice import choose
from seresnext101_triton.export.weights.opening import opened, tensor_of
from seresnext101_triton.export.weights.provenance import Provenance
from seresnext101_triton.export.weights.stored import Stored
from seresnext101_triton.export.weights.wording import brief

if TYPE_CHECKING:
    from torch import Tensor

    from seresnext101_triton.export.reporting import Reporter

REPOSITORY = "NVIDIA/DeepLearningExamples:torchhub"
ENTRY_POINT = "nvidia_se_resnext101_32x4d"

_CHILD = Path(__file__).with_name("hub_child.py")
_DEADLINE_S = 3600.0  # for a download over a slow line
_LAST_WORDS = 4096


@dataclass(frozen=True)
class HubSource:
    """NVIDIA's entry point, from its GitHub repository or from a clone of it."""

    clone: Path | None = None

    def identity(self, reporter: Reporter) -> str:
        with reporter.step(f"loading {ENTRY_POINT} through torch.hub, in a process of its own"):
            return self._sha256

    def load(self, architecture: Architecture, reporter: Reporter) -> tuple[SEResNeXt, Provenance]:
        state = {
            key: Stored(
                str(value.dtype).removeprefix("torch."), tuple(value.shape), "", value.clone
            )
            for key, value in self._state.items()
        }
        network = build(state, architecture, f"hub:{ENTRY_POINT}")
        return network, Provenance("hub", str(self.clone or REPOSITORY), self._sha256)

    @cached_property
    def _sha256(self) -> str:
        return sha256_of_tensors(self._state)

    @cached_property
    def _state(self) -> dict[str, Tensor]:
        with TemporaryDirectory(prefix="torch-hub-") as folder:
            result = Path(folder) / "weights.safetensors"
            ending = _run(
                Path(folder),
                str(self.clone) if self.clone else REPOSITORY,
                "local" if self.clone else "github",
            )
            if not result.is_file():
                raise self._unavailable(ending)
            name = f"hub:{ENTRY_POINT}"
            try:
                with opened(result) as (content, _):
                    tensors = choose(content, name, ema=False).tensors
                    return {
                        key: tensor_of(tensor, f"{name}: {brief(key)}").clone()
                        for key, tensor in tensors.items()
                    }
            except CheckpointError as error:
                raise self._unavailable(str(error)) from None

    def _unavailable(self, reason: str) -> SourceUnavailable:
        return SourceUnavailable(
            f"torch.hub cannot load {ENTRY_POINT} from {self.clone or REPOSITORY}: {reason}. "
            "`weights=ngc` fetches the same weights without that repository's code"
        )


def _run(folder: Path, repository: str, source: str) -> str:
    """Run the child until it ends, and say how it ended.

    Ctrl-C and SIGTERM end it, and every process that it started.
    """
    command = [sys.executable, "-P", str(_CHILD), str(folder), repository, source, ENTRY_POINT]
    with (folder / "output").open("wb") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = child.wait(_DEADLINE_S)
        except subprocess.TimeoutExpired:
            return f"it did not end within {_DEADLINE_S:g} s"
        finally:
            with suppress(ProcessLookupError):  # all of its group is gone already
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return _reason(folder) or _last_line(folder, code)


def _reason(folder: Path) -> str:
    """The error that the child told of; empty where it did not come to that."""
    try:
        with (folder / "error.txt").open(encoding="utf-8", errors="replace") as file:
            lines = file.read(_LAST_WORDS).splitlines()
    except OSError:
        return ""
    reason = brief(lines[0]) if lines else ""
    return (
        f"{reason} (its code ended its own process)" if reason.startswith("SystemExit") else reason
    )


def _last_line(folder: Path, code: int) -> str:
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    with (folder / "output").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_WORDS))
        lines = file.read().decode("utf-8", "replace").split("\n")
    words = [line.strip() for line in lines if line.strip()]
    return f"its process {how}, without weights" + (
        f"; its last line is: {brief(words[-1])}" if words else ""
    )
