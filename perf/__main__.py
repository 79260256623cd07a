"""`python -m perf`."""

import sys

from seresnext101_triton import run_with_extra
from seresnext101_triton.client.process import INTERRUPTED, end_at_once

if __name__ == "__main__":
    code = run_with_extra(f"{__package__}.cli", "perf,cpu")
    if code == INTERRUPTED:
        end_at_once(code)  # a model may still be running in a thread
    sys.exit(code)
