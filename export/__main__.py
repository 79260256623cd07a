"""`python -m export`."""

import sys

from seresnext101_triton import run_with_extra
from seresnext101_triton.export.interruption import run


def _main() -> int:
    return run_with_extra(f"{__package__}.cli", "export,cpu")


if __name__ == "__main__":
    sys.exit(run(_main, leaves="the repository is as it was"))
