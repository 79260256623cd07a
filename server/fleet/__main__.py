"""`python -m server.fleet`."""

import sys

from seresnext101_triton.server.fleet.cli import main

if __name__ == "__main__":
    sys.exit(main())
