"""Runs code from torch.hub in a process of its own, of which only tensors come back.

`seresnext101_triton.export.weights.hub` starts it.

Usage: hub_child.py RESULT REPOSITORY SOURCE ENTRY_POINT. RESULT is a folder; `weights.safetensors`
or `error.txt` is written there.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

# Before anything is put on the path, so that nothing can take their place.
import numpy as np  # noqa: F401
import torch
from safetensors.torch import save_file

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Load the entry point, and write its tensors."""
    # This process is to end with the export, however that ends.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    folder, repository, source, entry_point = Path(sys.argv[1]), *sys.argv[2:]
    path, modules = list(sys.path), dict(sys.modules)
    try:
        model = torch.hub.load(
            repository, entry_point, source=source, trust_repo=True, pretrained=True
        )
        sys.path[:] = path  # what follows imports what it needs from where it was
        sys.modules.update(modules)
        with torch.no_grad():
            state = {
                str(key): value.detach().cpu().clone().contiguous()
                for key, value in model.state_dict().items()
            }
        save_file(state, folder / "unfinished")
    except BaseException as error:  # sys.exit, too
        (folder / "error.txt").write_text(
            f"{type(error).__name__}: {error}", encoding="utf-8", errors="replace"
        )
        raise
    os.replace(folder / "unfinished", folder / "weights.safetensors")


if __name__ == "__main__":
    main()
