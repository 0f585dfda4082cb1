"""Run the command line as ``python -m bayeskit``."""

import sys

from bayeskit.cli import main

if __name__ == "__main__":
    sys.exit(main())
