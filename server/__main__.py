"""`python -m server`."""

import sys

from seresnext101_triton.server.cli import main

if __name__ == "__main__":
    sys.exit(main())
