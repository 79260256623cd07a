"""`python -m perf`."""

import sys

from seresnext101_triton import run_with_extra

if __name__ == "__main__":
    sys.exit(run_with_extra(f"{__package__}.cli", "perf,cpu"))
