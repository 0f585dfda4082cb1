"""``python -m bayeskit.accel.bench``."""

import sys

from bayeskit.accel.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
